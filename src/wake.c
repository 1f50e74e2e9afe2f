/*-------------------------------------------------------------------------
 *
 * wake.c
 *		How a commit wakes the worker of its database.
 *
 * A notification takes a lock of the whole cluster, which its transaction
 * holds while its commit is flushed. Here the writer does almost nothing: it
 * sets a flag in shared memory, and the latch of the worker if the flag was
 * not set before. Many commits in a row cost one wake-up.
 *
 * Nothing is lost: the worker clears the flag and then takes its snapshot; the
 * writer is visible to snapshots and then sets the flag. Clearing and setting
 * are full barriers, so a worker whose snapshot lacks a commit finds the flag
 * set (again) later. A worker that is not there is not called; when it comes,
 * it looks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "sync_ext.h"
#include "wake.h"

typedef struct WakeSlot
{
	pg_atomic_uint32 database;	/* 0: nobody's */
	pg_atomic_uint32 called;
	Latch	   *latch;			/* in the worker's PGPROC, which never goes */
} WakeSlot;

typedef struct WakeArea
{
	slock_t		mutex;			/* to take a slot and to give it back */
	int			nslots;
	WakeSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} WakeArea;

static WakeArea *area = NULL;
static WakeSlot *own_slot = NULL;
static shmem_request_hook_type previous_request = NULL;
static shmem_startup_hook_type previous_startup = NULL;

/* Every worker takes one of max_worker_processes, so these are enough. */
static Size
area_size(void)
{
	return add_size(offsetof(WakeArea, slots),
					mul_size(sizeof(WakeSlot), max_worker_processes));
}

static void
request_area(void)
{
	if (previous_request != NULL)
		previous_request();
	RequestAddinShmemSpace(area_size());
}

/* At the start of the server, and again after a crash. */
static void
start_area(void)
{
	bool		found;

	if (previous_startup != NULL)
		previous_startup();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	area = ShmemInitStruct("sync_ext workers", area_size(), &found);
	if (!found)
	{
		SpinLockInit(&area->mutex);
		area->nslots = max_worker_processes;
		for (int i = 0; i < area->nslots; i++)
		{
			pg_atomic_init_u32(&area->slots[i].database, InvalidOid);
			pg_atomic_init_u32(&area->slots[i].called, 0);
			area->slots[i].latch = NULL;
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

void
sx_wake_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	sx_hook_shmem_request(request_area, previous_request);
	previous_startup = shmem_startup_hook;
	shmem_startup_hook = start_area;
}

bool
sx_wake_available(void)
{
	return area != NULL;
}

void
sx_wake_worker(void)
{
	if (area == NULL)
		return;
	for (int i = 0; i < area->nslots; i++)
	{
		WakeSlot   *slot = &area->slots[i];

		if (pg_atomic_read_u32(&slot->database) != MyDatabaseId)
			continue;

		/*
		 * The slot may pass to another worker at this very moment. That one
		 * is woken for nothing, and the new one of this database looks when
		 * it begins.
		 */
		if (pg_atomic_exchange_u32(&slot->called, 1) == 0)
			SetLatch(slot->latch);
		return;
	}
}

static void
detach(int code, Datum arg)
{
	SpinLockAcquire(&area->mutex);
	pg_atomic_write_u32(&own_slot->database, InvalidOid);
	SpinLockRelease(&area->mutex);
	own_slot = NULL;
}

void
sx_wake_attach(void)
{
	if (area == NULL)
		return;
	SpinLockAcquire(&area->mutex);
	for (int i = 0; i < area->nslots && own_slot == NULL; i++)
	{
		WakeSlot   *slot = &area->slots[i];

		if (pg_atomic_read_u32(&slot->database) != InvalidOid)
			continue;
		slot->latch = MyLatch;
		pg_write_barrier();		/* whoever finds the database finds the latch */
		pg_atomic_write_u32(&slot->database, MyDatabaseId);
		own_slot = slot;
	}
	SpinLockRelease(&area->mutex);
	if (own_slot == NULL)
		elog(ERROR, "no slot is left for the worker");
	before_shmem_exit(detach, (Datum) 0);
}

bool
sx_wake_called(void)
{
	return own_slot != NULL && pg_atomic_read_u32(&own_slot->called) != 0;
}

void
sx_wake_clear(void)
{
	if (own_slot != NULL)
		(void) pg_atomic_exchange_u32(&own_slot->called, 0);
}

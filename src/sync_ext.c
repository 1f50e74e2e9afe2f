/*-------------------------------------------------------------------------
 *
 * sync_ext.c
 *		The module: its magic block, and what happens when it is loaded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "sync_ext.h"
#include "capture.h"
#include "filter.h"
#include "guc.h"
#include "launcher.h"
#include "plan.h"
#include "tracked.h"
#include "wake.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	sx_guc_init();
	sx_tracked_init();
	sx_capture_init();
	sx_filter_init();
	sx_plan_init();
	sx_wake_init();
	sx_launcher_init();
}

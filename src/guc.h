/*-------------------------------------------------------------------------
 *
 * guc.h
 *		The settings, all of them named sync.*.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_GUC_H
#define SYNC_EXT_GUC_H

typedef enum SxNotifyMode
{
	SX_NOTIFY_OFF,
	SX_NOTIFY_COMMIT,
	SX_NOTIFY_WORKER
} SxNotifyMode;

typedef enum SxBigNumbers
{
	SX_BIG_NUMBERS_NUMBER,
	SX_BIG_NUMBERS_TEXT
} SxBigNumbers;

/*
 * The longest name of a client, in bytes. It stands in every log row, whose
 * columns are never compressed nor moved out of line; a longer one would make
 * the writer's own change fail.
 */
#define SX_GUC_CLIENT_LENGTH 255

extern int	sx_guc_big_numbers;
extern char *sx_guc_channel;
extern char *sx_guc_client;
extern int	sx_guc_client_retention;	/* minutes; 0: for ever */
extern char *sx_guc_databases;
extern int	sx_guc_notify;
extern bool sx_guc_notify_keys;
extern int	sx_guc_prune_every;		/* seconds */
extern int	sx_guc_retention;		/* minutes */
extern int	sx_guc_server_timeout;	/* seconds */
extern int	sx_guc_worker_delay;	/* milliseconds */

/* Defines the settings and reserves their prefix. Called once, at load. */
extern void sx_guc_init(void);

#endif							/* SYNC_EXT_GUC_H */

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
	SX_NOTIFY_COMMIT
} SxNotifyMode;

typedef enum SxBigNumbers
{
	SX_BIG_NUMBERS_NUMBER,
	SX_BIG_NUMBERS_TEXT
} SxBigNumbers;

extern int	sx_guc_big_numbers;
extern char *sx_guc_channel;
extern char *sx_guc_client;
extern int	sx_guc_notify;
extern bool sx_guc_notify_keys;

/* Defines the settings and reserves their prefix. Called once, at load. */
extern void sx_guc_init(void);

#endif							/* SYNC_EXT_GUC_H */

/*-------------------------------------------------------------------------
 *
 * sync_ext.h
 *		What every file of the extension shares.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_H
#define SYNC_EXT_H

#include "compat.h"

/* The schema is fixed: the control file names it, and says not relocatable. */
#define SX_SCHEMA "sync"

/*
 * What a log entry says of its keys, in the scope that the entry carries.
 *
 * An UPDATE that alters key, scope or the soft-delete mark is two entries: a
 * leave with the old values and an enter with the new ones.
 */
typedef enum SxOp
{
	SX_OP_INSERT = 'I',
	SX_OP_UPDATE = 'U',			/* key and scope as before */
	SX_OP_DELETE = 'D',
	SX_OP_LEAVE = 'L',
	SX_OP_ENTER = 'E'
} SxOp;

/* Columns of every log table; keys and then scopes follow. */
#define SX_LOG_XID			1
#define SX_LOG_SEQ			2
#define SX_LOG_OP			3
#define SX_LOG_ORIGIN		4
#define SX_LOG_TIDS			5
#define SX_LOG_FIXED		5

#endif							/* SYNC_EXT_H */

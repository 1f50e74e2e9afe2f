/*-------------------------------------------------------------------------
 *
 * textform.h
 *		Values as text that reads back to the same value in any session.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_TEXTFORM_H
#define SYNC_EXT_TEXTFORM_H

#include "tracked.h"

/* The text of values of these columns, in the current memory context. */
extern char **sx_textform_print(int n, const SxColumn *columns,
								const Datum *values);

/*
 * The values of such text, in the current memory context. Raises what the
 * types' input functions raise.
 */
extern Datum *sx_textform_parse(int n, const SxColumn *columns,
								char **texts);

#endif							/* SYNC_EXT_TEXTFORM_H */

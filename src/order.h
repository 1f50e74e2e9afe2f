/*-------------------------------------------------------------------------
 *
 * order.h
 *		Which mutations of a batch need others of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SYNC_EXT_ORDER_H
#define SYNC_EXT_ORDER_H

#include "mutation.h"

typedef struct SxOrder SxOrder;

/* What a batch's rows refer to, by foreign keys, in the batch itself. */
extern SxOrder *sx_order_begin(SxMutation **mutations, int n);

/*
 * A mutation, the i-th, with all that it needs and that is still open, those
 * that are needed first; returns how many. The array has room for all.
 */
extern int	sx_order_closure(SxOrder *order, int i, SxMutation **closure);

#endif							/* SYNC_EXT_ORDER_H */

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
 * that are needed first, and their numbers; returns how many, and 0 where one
 * of them was given up. The arrays have room for all.
 */
extern int	sx_order_closure(SxOrder *order, int i, SxMutation **closure,
							 int *numbers);

/* The i-th cannot be applied: what needs it need not be tried together. */
extern void sx_order_give_up(SxOrder *order, int i);

#endif							/* SYNC_EXT_ORDER_H */

/*-------------------------------------------------------------------------
 *
 * textform.c
 *		Values as text that reads back to the same value in any session.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "sync_ext.h"
#include "textform.h"

/*
 * The settings on which output and input of some types depend are pinned
 * meanwhile: what one session prints another one reads.
 */
static int
pin_settings(void)
{
	static const char *const pinned[][2] = {
		{"datestyle", "ISO, YMD"},
		{"intervalstyle", "postgres"},
		{"extra_float_digits", "3"},
		{"bytea_output", "hex"}
	};
	int			level = NewGUCNestLevel();

	for (int i = 0; i < (int) lengthof(pinned); i++)
		(void) set_config_option(pinned[i][0], pinned[i][1], PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
								 false);
	return level;
}

char **
sx_textform_print(int n, const SxColumn *columns, const Datum *values)
{
	char	  **texts = palloc(sizeof(char *) * Max(n, 1));
	int			level = pin_settings();

	for (int i = 0; i < n; i++)
	{
		Oid			output;
		bool		is_varlena;

		getTypeOutputInfo(columns[i].type, &output, &is_varlena);
		texts[i] = OidOutputFunctionCall(output, values[i]);
	}
	AtEOXact_GUC(true, level);
	return texts;
}

Datum *
sx_textform_parse(int n, const SxColumn *columns, char **texts)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(n, 1));
	int			level = pin_settings();

	for (int i = 0; i < n; i++)
	{
		Oid			input;
		Oid			ioparam;

		getTypeInputInfo(columns[i].type, &input, &ioparam);
		values[i] = OidInputFunctionCall(input, texts[i], ioparam,
										 columns[i].typmod);
	}
	AtEOXact_GUC(true, level);
	return values;
}

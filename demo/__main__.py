"""What scripts/demo shows, part by part.

Connects as libpq's environment says, makes tables in that database, and exits with 1 as soon as something that it
shows is not so.
"""

import sys

sys.dont_write_bytecode = True

import psycopg2  # noqa: E402

from journals import action_log, document  # noqa: E402
from reading import reading, storm  # noqa: E402
from rights import rights  # noqa: E402
from show import Writer, tell  # noqa: E402
from writing import writing  # noqa: E402


def main():
    shop = Writer("shop")
    listener, tablet, phone = reading(shop)
    rights(shop)
    writing(shop)
    document(shop)
    action_log(shop)
    storm(listener, tablet, phone, shop)


if __name__ == "__main__":
    try:
        main()
    except psycopg2.Error as e:
        tell("✗", "31;1", f"{type(e).__name__}: {e}")
        sys.exit(1)

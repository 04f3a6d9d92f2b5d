"""The real ClickHouse engine (chDB) behind ClickHouse's HTTP interface, for the stack on one machine.

Start: ``python -m clickledger.clickhouse_server --path DIR --port N --database NAME`` (port 0 picks a free one). Passwords
come by environment only: ``CLICKLEDGER_CLICKHOUSE_PASSWORD`` (user ``default``, reads and writes; unset = no password) and
``CLICKLEDGER_CLICKHOUSE_SINK_PASSWORD``, ``CLICKLEDGER_CLICKHOUSE_REPORTING_PASSWORD`` (the services' users ``sink`` and
``reporting``, with the rights of services.py) and ``CLICKLEDGER_CLICKHOUSE_READER_PASSWORD`` (user ``reader``, reads the
database NAME by the rules of access.py); unset = there is no such user.
``CLICKLEDGER_CLICKHOUSE_ANONYMOUS_READER=1`` gives requests without a password, addressed to this machine, the reader's rights.

Ready: one line of JSON on stdout, ``{"ready": true, "host": …, "port": …, "version": …, "pid": …}``, printed after the
engine has opened its data and the socket listens; from then on ``GET /ping`` answers ``Ok.``. SIGTERM and SIGINT stop it:
running statements are finished (at most ``--stop-seconds``), then the engine is closed. Exit code 0 after a stop, 1 when
the data folder cannot be opened (another process has it) or the port is taken, or a statement did not end in time.

Crash safety, seen with kill -9: rows of an acknowledged INSERT and their token are there after a restart on the same
folder. That holds for the death of the process; against a power failure MergeTree needs ``fsync_after_insert = 1`` (and
``fsync_part_directory = 1``) in the table's settings, which cost an fsync per part; without them the last parts before a
power failure may be gone although acknowledged, and the sink, which asks the table before every insert, writes them again.

Inserts, seen on chDB 26.9: 50,000 rows of 1 kB in JSONEachRow become one part with ``max_insert_block_size`` and
``min_insert_block_size_rows`` / ``_bytes`` above the body's size and ``input_format_parallel_parsing = 0``;
``insert_deduplication_token`` works with the table's ``non_replicated_deduplication_window``; also without a token the
same rows again are dropped there, by their hash. ``input_format_read_datetime_number_as_raw_value`` exists on this
version. ``written_rows`` of the summary also counts rows that were dropped as known.

What cancels what: a reading statement is killed in the engine when its client goes away, by KILL QUERY WHERE query_id = …,
or when a stop takes longer than half its time. A streaming INSERT whose body is cut off stores nothing; one whose body has
arrived, and all DDL, run on without their client, as on a server. system.processes shows the engine's own query ids; the
client's is in Settings['log_comment'].

Left out: external tables, input() and INFILE (refused), session roles, TLS. A result is streamed, so its summary is known
in the header only when the whole of it fits into the first MiB (16 MiB with wait_end_of_query=1).
"""

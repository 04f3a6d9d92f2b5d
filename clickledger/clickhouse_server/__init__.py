"""The real ClickHouse engine (chDB) behind ClickHouse's HTTP interface, for the stack on one machine.

Start: ``python -m clickledger.clickhouse_server --path DIR --port N --database NAME`` (port 0 picks a free one). Passwords
come by environment only: ``CLICKLEDGER_CLICKHOUSE_PASSWORD`` (user ``default``, reads and writes; unset = no password) and
``CLICKLEDGER_CLICKHOUSE_READER_PASSWORD`` (user ``reader``, reads the database NAME; unset = there is no such user).
``CLICKLEDGER_CLICKHOUSE_ANONYMOUS_READER=1`` gives requests without a password, addressed to this machine, the reader's rights.

Ready: one line of JSON on stdout, ``{"ready": true, "host": …, "port": …, "version": …, "pid": …}``, printed after the
engine has opened its data and the socket listens; from then on ``GET /ping`` answers ``Ok.``. SIGTERM and SIGINT stop it:
running statements are finished (at most ``--stop-seconds``), then the engine is closed. Exit code 0 after a stop, 1 when
the data folder cannot be opened (another process has it) or the port is taken.
"""

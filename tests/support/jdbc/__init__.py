"""The JDBC driver's check of the local ClickHouse server."""

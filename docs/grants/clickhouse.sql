-- Users, row policies and quotas of a real ClickHouse server. NOT PROVED HERE, but for the rights of the roles: the local engine
-- has roles with the same ones, under which the services run there and tests try what they may not. It cannot make users, so no test
-- runs this file. Read it, put your names in, run it as an administrator, then try tests/stack/test_sql_tenants.py's statements.

-- The services, once per server. `clickledger setup` and an operator's commands (audit, erase, reprocess) are of the owner of the
-- database; the API, the enricher and the deliverer do not talk to ClickHouse. An owner without SELECT ON system.data_skipping_indices
-- and system.projections is told by `setup` that indices and projections were not compared; all else is.
CREATE ROLE IF NOT EXISTS clickledger_sink;
GRANT SELECT, SHOW ON clickledger.* TO clickledger_sink;
GRANT INSERT ON clickledger.clicks TO clickledger_sink;
GRANT INSERT ON clickledger.clicks_probe TO clickledger_sink;
GRANT INSERT ON clickledger.clicks_readback TO clickledger_sink;
GRANT INSERT ON clickledger.promotions TO clickledger_sink;
GRANT INSERT ON clickledger.seals TO clickledger_sink;
GRANT INSERT ON clickledger.seals_announced TO clickledger_sink;
GRANT INSERT ON clickledger.tenants TO clickledger_sink;
-- On a cluster it asks every replica: GRANT REMOTE ON *.* TO clickledger_sink; and INSERT ON clickledger.clicks_local.
CREATE ROLE IF NOT EXISTS clickledger_reporting;
GRANT SELECT, SHOW ON clickledger.* TO clickledger_reporting;
CREATE USER IF NOT EXISTS clickledger_sink IDENTIFIED WITH sha256_password BY 'PASSWORD' DEFAULT ROLE clickledger_sink;
CREATE USER IF NOT EXISTS clickledger_reporting IDENTIFIED WITH sha256_password BY 'PASSWORD' DEFAULT ROLE clickledger_reporting;
GRANT clickledger_sink TO clickledger_sink;
GRANT clickledger_reporting TO clickledger_reporting;

-- Tenants.
-- Row policies are applied before a query's own conditions. SQL SECURITY INVOKER (the default of our views) makes them hold
-- through the views. The filter on each table is the tenant's name; NAME and PASSWORD stand for one tenant's.

-- In config.xml, under access_control_improvements: users_without_row_policies_can_read_rows = false, so that
-- a user that was forgotten sees nothing, and select_from_system_db_requires_grant = true.
CREATE ROLE IF NOT EXISTS clickledger_tenant;
GRANT SELECT, SHOW ON clickledger.rte TO clickledger_tenant;
GRANT SELECT, SHOW ON clickledger.edr TO clickledger_tenant;
GRANT SELECT, SHOW ON clickledger.ctr_daily TO clickledger_tenant;
GRANT SELECT, SHOW ON clickledger.clicks_by_dimension TO clickledger_tenant;
GRANT SELECT, SHOW ON clickledger.rejected TO clickledger_tenant;
GRANT SELECT, SHOW ON clickledger.freshness TO clickledger_tenant;
GRANT SELECT, SHOW ON clickledger.clicks TO clickledger_tenant;
GRANT SELECT, SHOW ON clickledger.promotions TO clickledger_tenant;
GRANT SELECT, SHOW ON clickledger.tenants TO clickledger_tenant;

-- A tenant may shape answers and bound its queries; it can move no bound upwards.
CREATE SETTINGS PROFILE IF NOT EXISTS clickledger_tenant SETTINGS
    readonly = 1,
    allow_nonconst_timezone_arguments = 1,
    allow_ddl = 0,
    max_execution_time = 60 MAX 60,
    max_memory_usage = 4000000000 MAX 4000000000,
    max_concurrent_queries_for_user = 4
TO clickledger_tenant;

CREATE QUOTA IF NOT EXISTS clickledger_tenant KEYED BY user_name
    FOR INTERVAL 1 minute MAX queries = 120, execution_time = 240
TO clickledger_tenant;

-- The services and operators see all rows: name every one of them, or the first row policy hides everything from them.
CREATE ROW POLICY IF NOT EXISTS clickledger_all ON clickledger.* USING 1 TO default, clickledger_sink, clickledger_reporting;

-- Once per tenant.
CREATE USER IF NOT EXISTS `NAME` IDENTIFIED WITH sha256_password BY 'PASSWORD' DEFAULT ROLE clickledger_tenant;
GRANT clickledger_tenant TO `NAME`;
CREATE ROW POLICY IF NOT EXISTS `clickledger_NAME` ON clickledger.clicks USING tenant = 'NAME' AS RESTRICTIVE TO `NAME`;
CREATE ROW POLICY IF NOT EXISTS `clickledger_NAME` ON clickledger.promotions USING tenant = 'NAME' AS RESTRICTIVE TO `NAME`;
CREATE ROW POLICY IF NOT EXISTS `clickledger_NAME` ON clickledger.tenants USING tenant = 'NAME' AS RESTRICTIVE TO `NAME`;
-- Restrictive policies only take away: this one gives the rows that they leave.
CREATE ROW POLICY IF NOT EXISTS `clickledger_NAME_rows` ON clickledger.* USING tenant = 'NAME' TO `NAME`;

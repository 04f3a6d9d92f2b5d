"""Names that somebody typed: one that nothing knows is an error, not an empty answer.

Known is what the catalog has, and what rows name: clicks of what was deleted are still there. Links are registered under
`host/path`; what was sent is brought into that form as the API does it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import orjson

from clickledger.directory import read_catalog
from clickledger.located import Located
from ingest_api.normalise import normalise
from shared.catalog import Catalog, Kind
from shared.clickhouse import ClickHouse
from shared.errors import OperatorError
from shared.stored_links import read_terms

_OF_TENANT = "({tenant:String} = '' OR tenant = {tenant:String})"
_ROWS: Mapping[Kind, str] = {
    Kind.TENANT: "tenant = {name:String}",
    Kind.PROMOTION: f"{_OF_TENANT} AND promotion_id = {{name:String}}",
    Kind.LINK: f"{_OF_TENANT} AND (link = {{name:String}} OR short_url = {{name:String}})",
}


async def refuse_unknown(
    found: Located, tenant: str, promotions: Collection[str] = (), links: Collection[str] = ()
) -> None:
    """Raise OperatorError for a tenant, a promotion or a link that neither the catalog nor a row knows.

    Promotions and links are the tenant's; without one (`''`) anybody's. Raises as Kafka and ClickHouse do.
    """
    named = [(Kind.TENANT, name) for name in (tenant,) if name]
    named += [(Kind.PROMOTION, name) for name in promotions]
    named += [(Kind.LINK, name) for name in links]
    if not named:
        return
    async with read_catalog(found.kafka, found.catalog, {kind for kind, _ in named}) as catalog:
        unknown = [(kind, name) for kind, name in named if not _has(catalog, kind, name, tenant)]
    async with ClickHouse(found.clickhouse) as clickhouse:
        for kind, name in unknown:
            sql = f"SELECT 1 FROM clicks WHERE {_ROWS[kind]} LIMIT 1"  # noqa: S608  # of the table above
            if not await clickhouse.query(sql, {"name": name, "tenant": tenant}):
                whose = f" of tenant {tenant}" if tenant and kind is not Kind.TENANT else ""
                see = "; see: clickledger tenants list" if kind is Kind.TENANT else ""
                raise OperatorError(f"no {kind} {name}{whose}, and no click on one{see}")


def _has(catalog: Catalog, kind: Kind, name: str, tenant: str) -> bool:
    match kind:
        case Kind.PROMOTION:
            if tenant:
                return catalog.promotion(tenant, name) is not None
            return any(orjson.loads(record)["promotion_id"] == name for _, record in catalog.scan(kind))
        case Kind.LINK:
            link = catalog.resolve(normalise(name).key or name)
            return link is not None and tenant in ("", read_terms(link.link).tenant)
        case _:
            return catalog.record(kind, name) is not None

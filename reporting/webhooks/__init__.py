"""Webhooks: events of a tenant's clicks, sent to the tenant's own URLs, each at least once (docs/adr/0020).

`api.py` is served by the reports, everything behind `service.py` runs in the process `clickledger deliverer`.
"""

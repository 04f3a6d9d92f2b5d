"""Who is in a consumer group under a member's name."""

from __future__ import annotations

import re
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.protocol.admin import DescribeGroupsRequest


async def host_of_name(coordinator: Any, group_id: str, name: str, member_id: str) -> str | None:
    """Where another member that has joined as `name` comes from; None when nobody has. `member_id`: our own.

    The client id, which is the name, has been in the answer since its first form, and the member id tells a stranger from
    ourselves. Kafka begins it with the name, and a UUID follows: who was renamed has kept the client id only. Raises the
    library's errors.
    """
    renamed = re.compile(rf"{re.escape(name)}-[0-9a-f]{{8}}-[0-9a-f]{{8}}-")
    await coordinator.ensure_coordinator_known()
    [group] = (await coordinator._send_req(DescribeGroupsRequest([group_id]))).groups
    code, _group, _state, _type, _protocol, members = group[:6]  # newer forms have more behind
    if code:
        raise kafka_errors.for_code(code)(f"DescribeGroups: error {code}")
    for other_id, client_id, host, _metadata, _assignment in members:
        if client_id == name and other_id != member_id and not renamed.match(other_id):
            return str(host).lstrip("/")
    return None

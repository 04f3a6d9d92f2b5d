"""The only place that knows the Kafka client library: clients with every setting explicit, one exception map.

`Producer` appends batches durably, `Consumer` is a member of a group whose offsets the caller commits by hand, `Reader`
reads without a group, `Admin` makes and checks topics. All raise only the classes of `shared.errors`.
"""

from shared.kafka.admin import Admin, TopicSpec
from shared.kafka.batch import Batch
from shared.kafka.client import Record
from shared.kafka.consumer import Assignment, Committed, Consumer, next_offset
from shared.kafka.producer import Producer
from shared.kafka.reader import Reader

__all__ = [
    "Admin",
    "Assignment",
    "Batch",
    "Committed",
    "Consumer",
    "Producer",
    "Reader",
    "Record",
    "TopicSpec",
    "next_offset",
]

#!/usr/bin/env bash
# What each client may do in Kafka, and no more, for brokers that ask (authorizer.class.name, no allow.everyone.if.no.acl.found).
# Give each service a user of its own (CLICKLEDGER_KAFKA_SASL_USERNAME, or the name of its certificate). A test runs the whole
# pipeline with these rights against a broker with TLS, passwords and an authorizer.
#
#   BROKERS=broker:9093 ADMIN=admin.properties bash docs/grants/kafka.sh
set -euo pipefail

allow() { # principal, options of kafka-acls.sh
    local user=$1
    shift
    kafka-acls.sh --bootstrap-server "$BROKERS" --command-config "$ADMIN" --add --allow-principal "User:$user" "$@"
}

# `clickledger setup` and an operator's commands: the topics are theirs.
for topic in clicks.raw clicks.enriched catalog webhooks; do
    allow clickledger-owner --operation All --topic "$topic"
done
allow clickledger-owner --operation Describe --group clickledger- --resource-pattern-type prefixed

# The API: clicks in; links, promotions and keys over HTTP; its spools' registrations.
allow clickledger-api --operation Write --topic clicks.raw
allow clickledger-api --operation Read --operation Write --topic catalog

# The enricher: before it writes it reads how far its topic is.
allow clickledger-enricher --operation Read --topic clicks.raw --topic catalog
allow clickledger-enricher --operation Read --operation Write --topic clicks.enriched
allow clickledger-enricher --operation Read --group clickledger-enricher- --resource-pattern-type prefixed

# The sink: ClickHouse is what it writes to. Before it stores anything it looks whether the topics could lose records.
allow clickledger-sink --operation DescribeConfigs --topic clicks.raw --topic clicks.enriched
allow clickledger-sink --operation Describe --topic clicks.raw
allow clickledger-sink --operation Read --topic clicks.enriched --topic catalog
allow clickledger-sink --operation Read --group clickledger-sink- --resource-pattern-type prefixed

# Reports, stream, dashboard; webhooks over HTTP are registered in the catalog.
allow clickledger-reporting --operation Read --topic clicks.raw --topic clicks.enriched
allow clickledger-reporting --operation Read --operation Write --topic catalog --topic webhooks

# The deliverer of webhooks.
allow clickledger-deliverer --operation Read --topic clicks.enriched --topic catalog
allow clickledger-deliverer --operation Read --operation Write --topic webhooks
allow clickledger-deliverer --operation Read --group clickledger-webhooks- --resource-pattern-type prefixed

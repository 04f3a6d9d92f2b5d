#!/bin/sh
# Report one click with curl: click.sh URL KEY SHORT_URL. One id for all tries, so that the click counts once.
# curl itself retries 408, 429, 5xx, time-outs and refused connections, waits as Retry-After says, else 1, 2, 4 … s.
# Prints the answer; the exit status is 0 only when it has a transaction-id.
set -eu
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
id=$(cat /proc/sys/kernel/random/uuid 2>/dev/null || uuidgen)
now_ms=$(($(date +%s) * 1000))
curl --silent --show-error --max-time 10 --retry 8 --retry-connrefused \
    --header "authorization: Bearer $2" \
    --header "content-type: application/json" \
    --header "idempotency-key: $id" \
    --data "{\"short-url\": \"$3\", \"clicked-at\": $now_ms}" \
    --output "$answer" "$1/campaignapi/resources/v3/shortlinkclicks"
cat "$answer"
# {"transaction-id":"…"}: recorded. {"code":"1010",…}: will never be recorded, do not try again. Else: see docs/api.md.
grep -q '^{"transaction-id":' "$answer"

#!/bin/sh
# A server command with the proxy in front: wrapped.sh PROFILE COMMAND ARG...; the ledger is ./audit.jsonl.
profile=$(dirname "$0")/$1.yaml
shift
exec mcp-audit --config "$profile" --log audit.jsonl -- "$@"

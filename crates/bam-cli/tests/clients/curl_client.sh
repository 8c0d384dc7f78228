#!/bin/sh
# The commands of docs/serving.md by `curl`, and what they must answer. Arguments: address, model's name.
set -eu
base="http://$1"
model="$2"

# $1: what the answer must hold; the rest: curl's arguments.
expect() {
    wanted="$1"
    shift
    answer=$(curl --silent --show-error --max-time 60 "$@")
    case "$answer" in
        *"$wanted"*) ;;
        *) echo "curl $*: expected $wanted, got $answer" >&2; exit 1 ;;
    esac
}
json='Content-Type: application/json'

expect '"status":"ok"' "$base/health"
expect "\"id\":\"$model\"" "$base/v1/models"
expect '"text_completion"' "$base/v1/completions" -H "$json" \
    -d '{"prompt": "The sea was", "max_tokens": 8, "temperature": 0}'
expect '"token_logprobs":[null' "$base/v1/completions" -H "$json" \
    -d '{"prompt": "The sea was", "max_tokens": 0, "echo": true, "logprobs": 1}'
expect 'data: [DONE]' --no-buffer "$base/v1/completions" -H "$json" \
    -d '{"prompt": "The sea was", "max_tokens": 8, "stream": true}'
expect '"tokens":[' "$base/tokenize" -H "$json" -d '{"prompt": "The sea was"}'
expect '"eos_token"' "$base/tokenizer_info"
expect 'bam_' "$base/metrics"
expect '"openapi"' "$base/openapi.json"
expect '<!doctype html>' "$base/"
expect '415' --output /dev/null --write-out '%{http_code}' "$base/v1/completions" -d '{"prompt": "a"}'
expect '400' --output /dev/null --write-out '%{http_code}' "$base/v1/completions" -H "$json" -d '{"prompt": 1}'
expect '404' --output /dev/null --write-out '%{http_code}' "$base/nothing"
echo "curl: 13 commands, as expected"

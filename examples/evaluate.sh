#!/usr/bin/env bash
# Merge one of the recipes, say whether the merge is whole, and evaluate it:
#   examples/evaluate.sh examples/yaml/llama_3_8b.yml OUT_DIR [--limit 20 ...]
# The commands are those in the recipe's comments, with OUT_DIR/merged in the place of
# ./merged; what comes after OUT_DIR goes to lm_eval as well. A merge that is there
# already is not made again. OUT_DIR/results gets what lm_eval writes.
set -euo pipefail

if [[ $# -lt 2 ]]; then
    echo "usage: $0 RECIPE.yml OUT_DIR [lm_eval's options]" >&2
    exit 2
fi
recipe=$1 out=$2
shift 2
merged=$out/merged

comments=$(sed -n 's/^# //p' "$recipe")
options=$(sed -n 's/^Run: mergekit-yaml [^ ]* [^ ]*//p' <<<"$comments")
evaluate=$(awk '/lm_eval --/ { on = 1 } on { print } on && !/\\$/ { exit }' \
    <<<"$comments")
if [[ -z $evaluate ]]; then
    echo "$recipe: no comment of it has a command of lm_eval" >&2
    exit 1
fi

mkdir -p "$out"
if [[ ! -e $merged/mergekit_config.yml ]]; then
    # shellcheck disable=SC2086  # the recipe's own options, none in most
    mergekit-yaml "$recipe" "$merged" $options
fi
mergekit-breadcrumbs verify "$merged"

evaluate=${evaluate//.\/merged/$(printf %q "$merged")}
eval "$evaluate --output_path $(printf %q "$out/results") $(printf '%q ' "$@")"

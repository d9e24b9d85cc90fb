#!/usr/bin/env bash
# Merge one of the recipes, say whether the merge is whole, and evaluate it:
#   examples/evaluate.sh examples/yaml/llama_3_8b.yml OUT_DIR [--limit 20 ...]
# The commands are those in the recipe's comments; lm_eval runs in OUT_DIR, and gets what
# comes after it. A merge that is in OUT_DIR/merged already is not made again.
# OUT_DIR/results gets what lm_eval writes.
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

cd "$out"
eval "$evaluate --output_path results $(printf '%q ' "$@")"

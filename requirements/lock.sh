#!/bin/sh
# Write the versions that .venv holds to constraints.txt. Called by make.
set -eu

pinned=requirements/constraints.txt
new=$(mktemp "$pinned.XXXXXX")
trap 'rm -f "$new"' EXIT

{
    sed -n 1p "$pinned"
    {
        # What only other versions of Python need stays as it is, and wins over the line of the same name below.
        grep ' ; ' "$pinned" || true
        # A local version (torch's 2.13.0+cpu) names one build of many; a direct reference, a file of this machine.
        .venv/bin/python -m pip freeze --all --exclude-editable --exclude pagestream |
            sed -e '/ @ /d' -e 's/+[a-z0-9.]*$//'
    } | LC_ALL=C sort -f -u -t = -k 1,1
} >"$new"
chmod 644 "$new"
mv "$new" "$pinned"

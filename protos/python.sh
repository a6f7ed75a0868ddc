#!/bin/sh
# Print a Python that the pinned generator has wheels for: 3.10 to 3.12.
for python in python3.12 python3.11 python3.10 python3; do
    # Running it, not finding it: a version manager leaves stubs for Pythons that it does not have.
    if "$python" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then
        echo "$python"
        exit
    fi
done
echo "the proto generator needs Python 3.10, 3.11 or 3.12: say which in PROTO_PYTHON" >&2
exit 1

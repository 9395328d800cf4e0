#!/usr/bin/env bash
# Builds sdist and wheel of the checkout into a folder, checks their metadata, and runs smoke.py with
# the wheel in an empty environment:  bash tests/wheel.sh FOLDER
# PYTHON has build and twine; the environment is made with it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
mkdir -p "$1"
folder=$(cd "$1" && pwd)
empty=$(mktemp -d)
trap 'rm -rf "$empty"' EXIT

"$python" -m build --outdir "$folder" "$root"
"$python" -m twine check --strict "$folder"/*
"$python" -m venv "$empty/wheel"
"$empty/wheel/bin/python" -m pip install --quiet "$folder"/*.whl
cd "$empty" # so that the wheel is imported, and not the checkout
"$empty/wheel/bin/python" "$root/tests/smoke.py" "$folder"/*.whl

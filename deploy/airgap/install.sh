#!/bin/sh
# Install from this folder; no network is used.
#
#   sh install.sh                     into /opt/mfm
#   sh install.sh FOLDER              into FOLDER
#   EXPECT=CHECKSUM sh install.sh     refuse any other SHA256SUMS than the one you were told
#   PYTHON=PATH sh install.sh         with this Python 3.11
#
# Each version gets a folder of its own beside FOLDER, and FOLDER is a link to it, so the version
# before stays until you remove it. Nothing is linked unless everything is in place.
set -eu

fail() { echo "install.sh: $1" >&2; exit 1; }

bundle=$(cd "$(dirname "$0")" && pwd)
target=${1:-/opt/mfm}
case "$target" in /*) ;; *) target=$PWD/$target ;; esac
case "$target" in *[[:space:]]*) fail "$target holds a space; programs of an environment cannot lie there" ;; esac
cd "$bundle"

[ -f SHA256SUMS ] || fail "SHA256SUMS is missing; this is no whole bundle"
sum=$(sha256sum SHA256SUMS | cut -d' ' -f1)
echo "checksum of SHA256SUMS: $sum"
if [ -n "${EXPECT:-}" ] && [ "$EXPECT" != "$sum" ]; then
  fail "expected $EXPECT; this is another bundle, nothing was installed"
fi
sha256sum --check --quiet --strict SHA256SUMS >&2 ||
  fail "files are damaged, missing or changed (named above); copy the bundle again, nothing was installed"
listed=$(cut -c67- SHA256SUMS | LC_ALL=C sort)
found=$(find . -type f ! -path ./SHA256SUMS | cut -c3- | LC_ALL=C sort)
[ "$listed" = "$found" ] || fail "the folder holds files that SHA256SUMS does not list; nothing was installed"

for candidate in "${PYTHON:-}" python3.11 python3; do
  [ -n "$candidate" ] || continue
  if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then
    python=$candidate
    break
  fi
done
[ -n "${python:-}" ] || fail "no Python 3.11 with venv and ensurepip found; install it (on Debian 12: python3 and python3-venv), or name one: PYTHON=PATH"

if [ -e "$target" ] && [ ! -L "$target" ]; then
  fail "$target is there and no link of an earlier install; name another folder, nothing was installed"
fi
version=$target-$(cat VERSION)-$(echo "$sum" | cut -c1-8)
if [ ! -e "$version/.complete" ]; then
  rm -rf "$version"   # an install that was cut short
  trap 'rm -rf "$version"' EXIT
  "$python" -m venv "$version"
  PIP_CONFIG_FILE=/dev/null "$version/bin/python" -m pip --isolated --disable-pip-version-check \
    --no-input --no-cache-dir --quiet install --no-index --no-deps wheels/*.whl
  PIP_CONFIG_FILE=/dev/null "$version/bin/python" -m pip --isolated --disable-pip-version-check check
  "$version/bin/mfm-$(cat ROLE)" --help >/dev/null
  touch "$version/.complete"
  trap - EXIT
fi
ln -s "$version" "$target.new.$$"
mv -T "$target.new.$$" "$target"
echo "installed: $target -> $version"
echo "next: RUNBOOK.md, first day"

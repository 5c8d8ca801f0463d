# What the scripts of Chorale share; sourced, never run. Needs bash with -euo pipefail.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '== %s\n' "$*"; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Prints the packages of scripts/packages.txt that are not installed.
missing_packages() {
  local package
  while read -r package; do
    [[ -z $package || $package == \#* ]] && continue
    if [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) != installed ]]; then
      printf '%s\n' "$package"
    fi
  done <"$root/scripts/packages.txt"
}

install_missing_packages() {
  if ! command -v dpkg-query >/dev/null; then
    say "no dpkg here: taking for granted what scripts/packages.txt lists"
    return
  fi
  local missing as_root=()
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]} == 0)); then
    say "all packages of scripts/packages.txt are installed"
    return
  fi
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      die "as root, install what is missing: apt-get install --no-install-recommends ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# build PRESET [TARGET...]: configures and builds in build/PRESET; all targets when none is named.
build() {
  local preset=$1 log
  shift
  say "configuring build/$preset"
  log=$(cd "$root" && cmake --preset "$preset" 2>&1) || {
    printf '%s\n' "$log"
    die "configuring failed"
  }
  say "building build/$preset with $(nproc) jobs"
  (cd "$root" && cmake --build --preset "$preset" -j "$(nproc)" ${1:+--target "$@"})
}

# shellcheck shell=bash
# Installs what vmctl needs: packages from Debian, and a virtual environment with what is on PyPI.
# Whoever uses it sources say.sh first and works in the project's folder.

PACKAGE_LISTS=(scripts/packages.txt scripts/guest_images/packages.txt)
VENV=.venv

# as_root COMMAND...: run a command as root, asking only where that is needed.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "this needs root, and there is no sudo: $*" "run the script as root"
    fi
}

# set_up EXTRAS: have everything in place; EXTRAS are those of pyproject.toml, as in `cli,dev`.
set_up() {
    local python missing
    python=$(_find_python)
    missing=$(_missing_packages "$python")
    if [[ -n $missing ]]; then
        _install_packages "$missing"
        # A newer one may have come, and headers with it.
        python=$(_find_python)
    fi
    _prepare_environment "$python" "$1"
}

# -- Debian -------------------------------------------------------------------------------------------

_listed_packages() { sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "${PACKAGE_LISTS[@]}" | sort -u; }

_missing_packages() {
    local wanted
    wanted=$(_listed_packages; _python_packages "$1")
    if ! command -v dpkg-query >/dev/null; then
        _refuse_other_systems
    fi
    comm -23 <(sort -u <<<"$wanted") \
        <(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' |
            sed -n 's/^installed //p' | sort -u)
}

# The packages that the interpreter itself is short of: only Debian's own comes in several.
_python_packages() {
    local version
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$1" -c 'import ensurepip, venv' 2>/dev/null || echo "python$version-venv"
    _has_headers "$1" || echo "python$version-dev"
}

_has_headers() {
    "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}

_refuse_other_systems() {
    printf '%s\n' "vmctl itself needs libvirt and QEMU; its tests and images need:" >&2
    sed -n 's/^[a-z]/    &/p' "${PACKAGE_LISTS[@]}" >&2
    die "this is neither Debian nor a system that is made from it" \
        "install what these packages hold, then: python3 -m venv $VENV && $VENV/bin/pip install -e '.[cli,dev]'"
}

_install_packages() {
    local packages
    mapfile -t packages <<<"$1"
    note "missing from Debian: ${packages[*]}"
    # Asked for here, so that sudo's question isn't hidden with the output.
    ((EUID == 0)) || as_root true
    step "installing ${#packages[@]} packages from Debian" \
        as_root bash scripts/lib/install-packages "${packages[@]}"
}

# -- Python -------------------------------------------------------------------------------------------

_find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    die "there is no Python 3.11 or later" "install one, and name it if need be: PYTHON=/path/to/python3 $0"
}

_prepare_environment() {
    local python=$1 extras=$2 wanted stamp=$VENV/.vmctl-installed
    wanted=$(
        "$python" -c 'import sys; print(sys.version, sys.executable)'
        pwd
        sha256sum pyproject.toml
    )
    if [[ -x $VENV/bin/python && -r $stamp ]] && _covers "$(head -n 1 "$stamp")" "$extras" &&
        [[ $(tail -n +2 "$stamp") == "$wanted" ]] && "$VENV/bin/python" -c 'import libvirt' 2>/dev/null; then
        return
    fi
    # What somebody else installed stays installed.
    if [[ -r $stamp ]] && _covers "$(head -n 1 "$stamp")" "$extras"; then
        extras=$(head -n 1 "$stamp")
    fi
    rm -f "$stamp"
    local clear=()
    if [[ -e $VENV ]] && ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        clear=(--clear)
    fi
    step "making the virtual environment $VENV ($("$python" --version))" \
        "$python" -m venv "${clear[@]}" "$VENV"
    step "installing vmctl[$extras] and what it needs from PyPI" \
        "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
        --editable ".[$extras]"
    printf '%s\n%s\n' "$extras" "$wanted" >"$stamp"
}

# _covers HAVE WANTED: whether the extras that are installed are all that are wanted.
_covers() {
    local extra
    for extra in ${2//,/ }; do
        [[ ,$1, == *,$extra,* ]] || return 1
    done
}

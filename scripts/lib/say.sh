# shellcheck shell=bash
# What the scripts say, and how: on standard error, in colour on a terminal only.

if [[ -t 2 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
    _bold=$'\e[1m' _dim=$'\e[2m' _red=$'\e[31m' _green=$'\e[32m' _plain=$'\e[0m'
else
    _bold='' _dim='' _red='' _green='' _plain=''
fi

# heading TEXT: what begins now.
heading() { printf '%s==> %s%s\n' "$_bold" "$*" "$_plain" >&2; }

# note TEXT: something worth knowing.
note() { printf '    %s\n' "$*" >&2; }

# success TEXT: the last line of a script that did what it was run for.
success() { printf '%s%s%s\n' "$_bold$_green" "$*" "$_plain" >&2; }

# die MESSAGE HINT: the two lines that every error has, and the end.
die() {
    printf '%serror:%s %s\nhint: %s\n' "$_red" "$_plain" "$1" "$2" >&2
    exit 1
}

# duration SECONDS: in words.
duration() {
    if (($1 < 60)); then printf '%d s' "$1"; else printf '%d min %d s' $(($1 / 60)) $(($1 % 60)); fi
}

# step TEXT COMMAND...: run a command whose output matters only when it fails. On a terminal its
# last line is shown while it runs.
step() {
    local text=$1 begin=$SECONDS status=0 log
    shift
    heading "$text"
    log=$(mktemp)
    if [[ -t 2 ]]; then
        "$@" </dev/null 2>&1 | tee "$log" | _show_last_line || status=${PIPESTATUS[0]}
    else
        "$@" </dev/null >"$log" 2>&1 || status=$?
    fi
    if ((status)); then
        tail -n 30 "$log" | sed 's/^/    /' >&2
        rm -f "$log"
        die "this failed: $text" "what it said is above; run the script again once it is mended"
    fi
    rm -f "$log"
    note "done in $(duration $((SECONDS - begin)))"
}

_show_last_line() {
    local line width
    width=$(tput cols 2>/dev/null || echo 80)
    while IFS= read -r line; do
        printf '\r\e[K    %s%.*s%s' "$_dim" $((width - 5)) "${line//[$'\r\t\e']/ }" "$_plain" >&2
    done
    printf '\r\e[K' >&2
}

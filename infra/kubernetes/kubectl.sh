# shellcheck shell=bash disable=SC2034
# What deploy.sh and cleanup.sh share: which kubectl, and how a step is run or, with --dry-run, only shown.

NAMESPACE=mlops-project
DRY_RUN=false

refuse() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 2
}

# KUBECTL wins (it may have words: "microk8s kubectl"), then MicroK8s' own, then the one on PATH.
find_kubectl() {
    if [ -n "${KUBECTL:-}" ]; then
        read -ra kubectl <<<"$KUBECTL"
    elif command -v microk8s >/dev/null; then
        kubectl=(microk8s kubectl)
    elif command -v kubectl >/dev/null; then
        kubectl=(kubectl)
    else
        refuse "no kubectl here; install MicroK8s (snap install microk8s --classic) or set KUBECTL"
    fi
}

say() { printf '%s\n' "== $*"; }

# Runs a command that changes or asks the cluster.
run() {
    if $DRY_RUN; then
        printf 'would run: %s\n' "$*"
    else
        "$@"
    fi
}

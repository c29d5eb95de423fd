#!/usr/bin/env bash
# Takes Readmit off the cluster. What it stored stays (deploy.sh finds it again), unless told otherwise.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=kubectl.sh
. "$here/kubectl.sh"

usage() {
    cat <<'USAGE'
usage: infra/kubernetes/cleanup.sh [options]
  --delete-data   the volumes and the namespace too: data, models and events are lost
  --yes           don't ask before deleting data
  --dry-run       show the commands; asks no cluster, changes nothing
  --help
KUBECTL is another kubectl.
USAGE
}

delete_data=false
sure=false
while [ $# -gt 0 ]; do
    case $1 in
        --help) usage; exit 0 ;;
        --delete-data) delete_data=true ;;
        --yes) sure=true ;;
        --dry-run) DRY_RUN=true ;;
        *) refuse "unknown option $1; see --help" ;;
    esac
    shift
done
find_kubectl
in_namespace=("${kubectl[@]}" --namespace "$NAMESPACE")

if $delete_data && ! $sure && ! $DRY_RUN; then
    read -rp "Delete every volume of $NAMESPACE: data, models, events? Type the namespace's name: " answer || answer=
    [ "$answer" = "$NAMESPACE" ] || refuse "nothing was deleted"
fi

if ! $DRY_RUN && [ -z "$("${kubectl[@]}" get namespace "$NAMESPACE" --ignore-not-found --output name)" ]; then
    say "no namespace $NAMESPACE: nothing to delete"
    exit 0
fi

# Who scales goes before what is scaled. KEDA's kind exists only where KEDA is installed.
if $DRY_RUN || [ -n "$("${kubectl[@]}" get crd scaledobjects.keda.sh --ignore-not-found --output name)" ]; then
    run "${in_namespace[@]}" delete scaledobjects.keda.sh --all --ignore-not-found
fi
kinds=horizontalpodautoscalers,poddisruptionbudgets,deployments,statefulsets,jobs
run "${in_namespace[@]}" delete "$kinds" --all --ignore-not-found --wait
run "${in_namespace[@]}" wait --for=delete pods --all --timeout=180s
run "${in_namespace[@]}" delete services,networkpolicies --all --ignore-not-found
# Every namespace has this one from the cluster itself.
run "${in_namespace[@]}" delete configmaps --field-selector metadata.name!=kube-root-ca.crt --ignore-not-found
run "${in_namespace[@]}" delete secret readmit-secrets --ignore-not-found

if $delete_data; then
    run "${in_namespace[@]}" delete persistentvolumeclaims --all --ignore-not-found --wait
    run "${kubectl[@]}" delete namespace "$NAMESPACE" --ignore-not-found --wait
    say "deleted, data too"
else
    say "deleted; volumes are kept (--delete-data deletes them)"
fi

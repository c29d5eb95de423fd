#!/usr/bin/env bash
# Brings Readmit up on MicroK8s, or on the cluster that kubectl knows; again at any time, for a new version too.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source-path=SCRIPTDIR source=kubectl.sh
. "$here/kubectl.sh"

usage() {
    cat <<'USAGE'
usage: infra/kubernetes/deploy.sh [options]
  --overlay NAME       single-node (default) or three-vms
  --data NODE          three-vms: the node for Kafka, PostgreSQL, S3, MLflow, ingestor, trainer, promoter
  --inference NODE     three-vms: the node for inference and the UI
  --observation NODE   three-vms: the node for the monitor, Prometheus, Alertmanager, Grafana
  --addons             enable MicroK8s' dns, hostpath-storage and metrics-server where they are off
  --registry HOST:PORT take our images from there, for example localhost:32000; without it, pods use what the nodes hold
  --load-images        give the nodes of MicroK8s our images, as docker or podman here has them
  --timeout SECONDS    how long one Job or rollout may take (900)
  --dry-run            render, and show the commands; asks no cluster, changes nothing
  --help
KUBECTL is another kubectl; READMIT_SECRETS another folder than ./secrets.
USAGE
}

overlay=single-node
registry=
addons=false
load_images=false
timeout=900
labels=()
while [ $# -gt 0 ]; do
    case $1 in
        --help) usage; exit 0 ;;
        --dry-run) DRY_RUN=true; shift; continue ;;
        --addons) addons=true; shift; continue ;;
        --load-images) load_images=true; shift; continue ;;
        --overlay | --data | --inference | --observation | --registry | --timeout)
            [ $# -ge 2 ] || refuse "$1 needs a value; see --help" ;;
        *) refuse "unknown option $1; see --help" ;;
    esac
    case $1 in
        --overlay) overlay=$2 ;;
        --registry) registry=$2 ;;
        --timeout) timeout=$2 ;;
        *) labels+=("$2=${1#--}") ;;
    esac
    shift 2
done
case $overlay in
    single-node | three-vms) ;;
    *) refuse "no overlay $overlay; there are single-node and three-vms" ;;
esac
[[ $timeout =~ ^[0-9]+$ ]] || refuse "--timeout $timeout is no number of seconds"
[ "$overlay" = three-vms ] || [ ${#labels[@]} -eq 0 ] || refuse "nodes have roles in --overlay three-vms alone"
[ -z "$registry" ] || ! $load_images || refuse "images come from --registry or by --load-images, not both"

find_kubectl
in_namespace=("${kubectl[@]}" --namespace "$NAMESPACE")

secrets=${READMIT_SECRETS:-$root/secrets}
names=$(python3 "$root/infra/secrets/generate.py" --names)
files=()
missing=
for name in $names; do
    if [ ! -f "$secrets/$name" ]; then
        $DRY_RUN || refuse "no secret $name in $secrets; run: make secrets"
        missing=" (missing: run make secrets)"
    fi
    files+=("--from-file=$name=$secrets/$name")
done

say "rendering $overlay"
rendered=$(mktemp)
trap 'rm -f "$rendered"' EXIT
"${kubectl[@]}" kustomize --load-restrictor LoadRestrictionsNone "$here/overlays/$overlay" >"$rendered"
if [ -n "$registry" ]; then
    sed -i -e "s#^\( *\(- \)\{0,1\}image: \)readmit/#\1$registry/readmit/#" \
        -e 's#imagePullPolicy: Never$#imagePullPolicy: IfNotPresent#' "$rendered"
fi
say "$(grep -c '^kind:' "$rendered") objects"

if $addons; then
    command -v microk8s >/dev/null || $DRY_RUN || refuse "--addons is for MicroK8s, which is not here"
    for addon in dns hostpath-storage metrics-server; do
        if $DRY_RUN || [ "$(microk8s status --addon "$addon")" != enabled ]; then
            run microk8s enable "$addon"
        fi
    done
fi

if $load_images; then
    command -v microk8s >/dev/null || $DRY_RUN || refuse "--load-images is for MicroK8s, which is not here"
    engine_words=$(python3 "$root/infra/images/build" --engine)
    read -ra engine <<<"$engine_words"
    images=$(sed -n 's#^ *\(- \)\{0,1\}image: \(readmit/.*\)$#\2#p' "$rendered" | sort -u)
    for image in $images; do
        say "loading $image"
        # By its full name: what podman calls readmit/… alone is localhost/readmit/…, another image to the cluster.
        run "${engine[@]}" tag "$image" "docker.io/$image" || refuse "no image $image here; run: make images"
        if $DRY_RUN; then
            printf 'would run: %s\n' "${engine[*]} save docker.io/$image | microk8s images import"
        else
            "${engine[@]}" save "docker.io/$image" | microk8s images import
        fi
    done
fi

for label in "${labels[@]}"; do
    run "${kubectl[@]}" label node "${label%=*}" "readmit.io/role=${label##*=}" --overwrite
done
if [ "$overlay" = three-vms ] && ! $DRY_RUN; then
    for role in data inference observation; do
        [ -n "$("${kubectl[@]}" get nodes --selector "readmit.io/role=$role" --output name)" ] ||
            refuse "no node has the role $role; say which: --$role NODE ($("${kubectl[@]}" get nodes --output name | xargs))"
    done
fi

say "namespace and secrets"
if $DRY_RUN || ! "${kubectl[@]}" get namespace "$NAMESPACE" --output name >/dev/null 2>&1; then
    run "${kubectl[@]}" create namespace "$NAMESPACE"
fi
secret_version() { "${in_namespace[@]}" get secret readmit-secrets --ignore-not-found --output 'jsonpath={.metadata.resourceVersion}'; }
# Applied by the server: kubectl's own apply would keep a copy of every secret in an annotation.
if $DRY_RUN; then
    printf 'would run: %s\n' "${in_namespace[*]} create secret generic readmit-secrets (${#files[@]} files of $secrets)$missing | ${in_namespace[*]} apply --server-side"
else
    before=$(secret_version)
    "${in_namespace[@]}" create secret generic readmit-secrets "${files[@]}" --dry-run=client --output yaml |
        "${in_namespace[@]}" apply --server-side --force-conflicts --filename -
    after=$(secret_version)
fi

# Pods of inference are ready once a model is promoted: on a new platform, only after data was asked for.
serving=
if ! $DRY_RUN; then
    serving=$("${in_namespace[@]}" get deployment inference --ignore-not-found --output 'jsonpath={.status.readyReplicas}')
fi

say "objects"
# The template of a Job can't be changed: one that has ended makes place for its next run.
if $DRY_RUN; then
    printf 'would run: %s\n' "${in_namespace[*]} delete job (those that have ended)"
else
    ended=$("${in_namespace[@]}" get jobs --output \
        'jsonpath={range .items[*]}{.metadata.name}{" "}{.status.conditions[*].type}{"\n"}{end}' |
        awk '/Complete|Failed/ { print $1 }')
    for job in $ended; do
        "${in_namespace[@]}" delete job "$job" --ignore-not-found
    done
fi
# By the server, too: a dashboard is larger than the annotation of kubectl's own apply may be.
run "${kubectl[@]}" apply --server-side --force-conflicts --filename - <"$rendered"
if $DRY_RUN; then
    say "then: wait for each Job, restart what runs if a secret has changed, wait for each rollout"
    exit 0
fi

# Asks for a list first, so that a refusal of the cluster ends the script.
names_of() { "${in_namespace[@]}" get "$1" --output name; }
all_jobs=$(names_of jobs)
for job in $all_jobs; do
    say "waiting for $job"
    "${in_namespace[@]}" wait --for=condition=complete "$job" --timeout="${timeout}s" ||
        refuse "$job has not ended well; see: ${in_namespace[*]} logs $job"
done
workloads=$(names_of deployments,statefulsets)
# Programs read their secrets when they start. The Jobs are through: passwords in the database are the new ones.
if [ -n "$before" ] && [ "$before" != "$after" ]; then
    say "secrets have changed: restarting"
    for workload in $workloads; do
        "${in_namespace[@]}" rollout restart "$workload"
    done
fi
for workload in $workloads; do
    if [ "$workload" = deployment.apps/inference ] && [ -z "$serving" ]; then
        say "not waiting for $workload: it is ready once the first model is promoted"
        continue
    fi
    say "waiting for $workload"
    "${in_namespace[@]}" rollout status "$workload" --timeout="${timeout}s" ||
        refuse "$workload is not ready; see: ${in_namespace[*]} describe $workload"
done

say "addresses"
address=$("${kubectl[@]}" get nodes --output 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')
"${in_namespace[@]}" get services --output \
    'jsonpath={range .items[?(@.spec.type=="NodePort")]}{.metadata.name}{" "}{.spec.ports[*].nodePort}{"\n"}{end}' |
    while read -r service ports; do
        for port in $ports; do
            printf '%-16s http://%s:%s\n' "$service" "${address%% *}" "$port"
        done
    done

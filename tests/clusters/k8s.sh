#!/usr/bin/env bash
# A real Kubernetes of one node on a Debian 12 machine with root, from Debian's packages: etcd, kube-apiserver,
# kube-controller-manager, kube-scheduler, and a kubelet that runs containers with containerd. No registry is needed.
#
#   k8s.sh build                 build Kubernetes from Debian's source package (about 10 minutes, once; kept in $K8S_HOME)
#   k8s.sh up                    start the cluster, after a build if there was none, or if one is going on; the kubeconfig's
#                                path is printed last
#   k8s.sh running               succeed if one is up
#   k8s.sh load FILE             load an image archive (docker-archive or oci-archive)
#   k8s.sh stop NAME, start NAME one of apiserver, controller-manager, scheduler, kubelet
#   k8s.sh ctr ARG...            containerd's own client, in Kubernetes' namespace
#   k8s.sh down                  stop what this script started, and drop its state
#
# The node has two nvidia.com/gpu (a count: there is no device behind it). Pods reach this machine at 10.124.0.1, and the API
# server at 10.96.0.1, as the variables that Kubernetes sets say. There is no cluster DNS. This Kubernetes is v1.20: the server
# drops fields that are newer.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${K8S_HOME:-/opt/k8s-e2e}
state=${K8S_STATE:-/run/k8s-e2e}
data=/var/lib/k8s-e2e
bin=$home/bin
node_ip=10.124.0.1 # of a bridge of this script's own
pod_network=10.123.0.0/24
api_ip=10.96.0.1 # of the service kubernetes, by which pods ask the API server: it listens there itself, without kube-proxy
gpus=2
export KUBECONFIG=$state/admin.conf

# shellcheck source=SCRIPTDIR/waiting.sh
source "$here/waiting.sh"

alive() { [[ -f $state/$1.pid ]] && kill -0 "$(cat "$state/$1.pid")" 2>/dev/null; }

daemon() { # NAME COMMAND...
    local name=$1
    shift
    alive "$name" && return
    setsid "$@" >>"$state/$name.log" 2>&1 </dev/null 9>&- &
    echo $! >"$state/$name.pid"
}

build() { # one at a time: whoever comes second waits, and finds it done
    mkdir -p "$home"
    exec 9>"$home/lock"
    flock 9
    [[ -x $bin/kubelet ]] || compile
    exec 9>&-
}

compile() {
    local source=$home/source gopath=$home/gopath version=k8s.io/kubernetes/vendor/k8s.io/component-base/version
    say "building Kubernetes in $home (about 10 minutes)"
    sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >/etc/apt/sources.list.d/debian-source.sources
    flock /run/lock/cefr-batch-packages apt-get update -q >/dev/null 2>&1 || true # packages.sh may find all installed
    "$here/packages.sh" golang-1.19-go dpkg-dev rsync make gcc libc6-dev
    rm -rf "$source" "$gopath"
    mkdir -p "$source" "$gopath/src/k8s.io" "$bin"
    (cd "$source" && apt-get source -q --download-only kubernetes && dpkg-source -x ./*.dsc tree) >"$home/build.log" 2>&1
    mv "$source/tree" "$gopath/src/k8s.io/kubernetes"
    (
        export PATH=/usr/lib/go-1.19/bin:$PATH GOPATH=$gopath GO111MODULE=off GOCACHE=$home/gocache
        cd "$gopath/src/k8s.io/kubernetes"
        make generated_files
        go build -trimpath -ldflags "-s -w -X $version.gitVersion=v1.20.2 -X $version.gitMajor=1 -X $version.gitMinor=20" \
            -o "$home/" ./cmd/kube-{apiserver,controller-manager,scheduler} ./cmd/kubelet
    ) >>"$home/build.log" 2>&1
    mv "$home"/kube-{apiserver,controller-manager,scheduler} "$home/kubelet" "$bin/"
    rm -rf "$source" "$home/gocache"
    chmod -R u+w "$gopath" && rm -rf "$gopath"
}

install_packages() {
    local item missing=()
    for item in etcd:etcd-server containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins \
        iptables:iptables openssl:openssl ip:iproute2 conntrack:conntrack kubectl:kubernetes-client gcc:gcc; do
        command -v "${item%%:*}" >/dev/null || missing+=("${item##*:}")
    done
    [[ ${#missing[@]} = 0 ]] || "$here/packages.sh" "${missing[@]}" libc6-dev
}

make_keys() {
    [[ ! -f $state/admin.conf ]] || return 0
    openssl genrsa -out "$state/sa.key" 2048 2>/dev/null
    openssl rsa -in "$state/sa.key" -pubout -out "$state/sa.pub" 2>/dev/null
    # besides the administrator two users without any right, for whoever wants to give them some
    printf '%s\n' 'e2e-admin-token,admin,admin,"system:masters"' 'e2e-user-token,user,user' 'e2e-guest-token,guest,guest' \
        >"$state/tokens.csv"
    cat >"$state/admin.conf" <<END
apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "https://$api_ip", certificate-authority: $state/certs/apiserver.crt}}]
users:
- {name: admin, user: {token: e2e-admin-token}}
- {name: user, user: {token: e2e-user-token}}
- {name: guest, user: {token: e2e-guest-token}}
contexts:
- {name: e2e, context: {cluster: e2e, user: admin}}
- {name: user, context: {cluster: e2e, user: user}}
- {name: guest, context: {cluster: e2e, user: guest}}
current-context: e2e
END
    chmod 600 "$state/admin.conf" "$state/tokens.csv"
}

configure_containers() {
    mkdir -p /etc/cni/net.d
    cat >/etc/cni/net.d/10-e2e.conflist <<END
{"cniVersion": "0.4.0", "name": "e2e", "plugins": [
  {"type": "bridge", "bridge": "cni-e2e", "isGateway": true, "isDefaultGateway": true, "ipMasq": false,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pod_network"}]]}},
  {"type": "loopback"}]}
END
    cat >"$state/containerd.toml" <<END
version = 2
root = "$data/containerd"
state = "$state/containerd"
[grpc]
  address = "$state/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:e2e"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
END
    ip link show e2e0 >/dev/null 2>&1 || {
        ip link add e2e0 type bridge
        ip addr add $node_ip/32 dev e2e0
        ip addr add $api_ip/32 dev e2e0
        ip link set e2e0 up
    }
}

ctr_() { ctr -a "$state/containerd.sock" -n k8s.io "$@"; }

make_pause_image() { # one program that sleeps and buries orphans, in place of the pause image that would be pulled
    ! ctr_ images ls -q | grep -q localhost/pause:e2e || return 0
    local folder
    folder=$(mktemp -d)
    cat >"$folder/pause.c" <<'END'
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void stop(int s) { (void)s; _exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) { signal(SIGTERM, stop); signal(SIGINT, stop); signal(SIGCHLD, reap); for (;;) pause(); }
END
    gcc -static -Os -o "$folder/pause" "$folder/pause.c"
    tar -C "$folder" -cf "$folder/layer.tar" pause
    local layer config
    layer=$(sha256sum "$folder/layer.tar" | cut -d' ' -f1)
    cat >"$folder/config.json" <<END
{"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/pause"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]}}
END
    config=$(sha256sum "$folder/config.json" | cut -d' ' -f1).json
    mv "$folder/config.json" "$folder/$config"
    echo "[{\"Config\": \"$config\", \"RepoTags\": [\"localhost/pause:e2e\"], \"Layers\": [\"layer.tar\"]}]" \
        >"$folder/manifest.json"
    tar -C "$folder" -cf "$folder/image.tar" "$config" layer.tar manifest.json
    ctr_ images import "$folder/image.tar" >/dev/null
    rm -rf "$folder"
}

start() {
    case $1 in
    containerd)
        daemon containerd containerd --config "$state/containerd.toml"
        wait_for 30 containerd ctr_ version
        ;;
    etcd)
        daemon etcd etcd --data-dir "$data/etcd" --unsafe-no-fsync \
            --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
            --listen-peer-urls http://127.0.0.1:12380 --initial-advertise-peer-urls http://127.0.0.1:12380 \
            --initial-cluster default=http://127.0.0.1:12380
        ;;
    apiserver)
        daemon apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:12379 --secure-port=443 \
            --bind-address=$api_ip --advertise-address=$node_ip --cert-dir="$state/certs" \
            --token-auth-file="$state/tokens.csv" --authorization-mode=RBAC --service-cluster-ip-range=10.96.0.0/24 \
            --service-account-key-file="$state/sa.pub" --service-account-signing-key-file="$state/sa.key" \
            --service-account-issuer=https://e2e --kubelet-preferred-address-types=InternalIP \
            --feature-gates=TTLAfterFinished=true --allow-privileged=true
        wait_for 60 kube-apiserver kubectl get --raw /readyz
        ;;
    controller-manager)
        daemon controller-manager "$bin/kube-controller-manager" --kubeconfig="$KUBECONFIG" \
            --service-account-private-key-file="$state/sa.key" --root-ca-file="$state/certs/apiserver.crt" \
            --use-service-account-credentials=false \
            --feature-gates=TTLAfterFinished=true --secure-port=0 --port=0 --leader-elect=false \
            --pod-eviction-timeout=10s --node-monitor-grace-period=15s
        ;;
    scheduler)
        daemon scheduler "$bin/kube-scheduler" --kubeconfig="$KUBECONFIG" --leader-elect=false --secure-port=0 --port=0
        ;;
    kubelet)
        daemon kubelet "$bin/kubelet" --config="$state/kubelet.yaml" --kubeconfig="$KUBECONFIG" --root-dir="$data/kubelet" \
            --container-runtime=remote --container-runtime-endpoint="unix://$state/containerd.sock" \
            --hostname-override=e2e-node --node-ip=$node_ip --image-gc-high-threshold=100 --image-gc-low-threshold=99
        ;;
    *)
        say "there is no $1"
        exit 2
        ;;
    esac
}

stop() { # gone when this returns; the API server may wait a minute for those who watch it
    ! alive "$1" || kill "$(cat "$state/$1.pid")"
    for _ in {1..20}; do alive "$1" && sleep 0.2; done
    ! alive "$1" || kill -KILL "$(cat "$state/$1.pid")"
    wait_for 30 "the end of $1" gone "$1"
}

gone() { ! alive "$1"; }

configure_kubelet() {
    cat >"$state/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
oomScoreAdj: 0
evictionHard: {}
resolvConf: ""
address: $node_ip
END
}

node_is_ready() { kubectl get node e2e-node | grep -qw Ready; }

up() {
    build
    install_packages
    alive containerd || down # what one that was killed left behind, maybe in part, is no state to go on from
    mkdir -p "$state" $data
    make_keys
    configure_containers
    configure_kubelet
    start containerd
    make_pause_image
    local name
    for name in etcd apiserver controller-manager scheduler kubelet; do start $name; done
    wait_for 90 "the node" node_is_ready
    kubectl patch node e2e-node --subresource=status --type=json >/dev/null \
        -p "[{\"op\": \"add\", \"path\": \"/status/capacity/nvidia.com~1gpu\", \"value\": \"$gpus\"}]"
    wait_for 30 "the default service account" kubectl get serviceaccount default
    echo "$KUBECONFIG"
}

down() {
    local name task
    for name in kubelet scheduler controller-manager apiserver etcd; do stop $name; done
    if alive containerd; then
        ctr_ tasks ls -q | while read -r task; do ctr_ tasks kill -s KILL "$task" >/dev/null 2>&1 || true; done
        stop containerd
    fi
    pkill -KILL -f "containerd-shim-runc-v2 .*-address $state/" || true
    mount | awk -v of="^($data|$state)/" '$3 ~ of {print $3}' | sort -r | xargs -r umount -l
    ip link del e2e0 2>/dev/null || true
    ip link del cni-e2e 2>/dev/null || true
    rm -rf "$state" $data /etc/cni/net.d/10-e2e.conflist
}

command=${1:-}
case $command in
build) build ;;
up | down) alone "$@" && "$command" ;;
running) alive containerd ;;
start | stop) "$command" "$2" ;;
load) ctr_ images import "$2" ;;
ctr) shift && ctr_ "$@" ;;
*)
    sed -n '2,16p' "$0"
    exit 2
    ;;
esac

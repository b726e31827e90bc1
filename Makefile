# `make demo` shows the program at work, `make test` runs every test. Both fetch and build what they need.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

# The real Kubernetes of the lab, and what test/kubeadm runs beside it. Each folder of the cache has what one module names, and
# is called after a hash of that, and of what it has of ours: what is there is not built again.
folder = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kube-vip/$(1)/$(shell cat $(2)/go.mod $(2)/go.sum $(3) | sha256sum | cut -c1-16)

PARTS      := $(call folder,parts,test/parts)
PARTS_V136 := $(call folder,parts-v1.36,test/kubeadm/parts/v1.36)
PARTS_V135 := $(call folder,parts-v1.35,test/kubeadm/parts/v1.35)
PARTS_NODE := $(call folder,parts-node,test/kubeadm/parts/node,test/kubeadm/pause/main.go)

# Commands that the tests call, and the Debian package that brings each.
TOOLS := ip:iproute2 nft:nftables keepalived:keepalived tcpdump:tcpdump arping:iputils-arping ndisc6:ndisc6 \
         vtysh:frr bird:bird2 runc:runc losetup:mount pgrep:procps

export KUBE_VIP_LAB_PARTS ?= $(PARTS)
export KUBE_VIP_BINARY    ?= $(CURDIR)/bin/kube-vip

# For test/kubeadm: older Kubernetes, what a node runs beside Kubernetes, and our image.
export KUBE_VIP_KUBEADM_V136 ?= $(PARTS_V136)
export KUBE_VIP_KUBEADM_V135 ?= $(PARTS_V135)
export KUBE_VIP_KUBEADM_NODE ?= $(PARTS_NODE)
export KUBE_VIP_IMAGE        ?= $(CURDIR)/bin/kube-vip-test-image.tar

# grpcnotrace: gobgp brings gRPC along, whose traces have the linker keep every method of every type, 20 MB of them.
GO_BUILD := CGO_ENABLED=0 go build -buildvcs=auto -trimpath -tags grpcnotrace -ldflags "-s -w"

.PHONY: build
build: ## the program: one static binary, bin/kube-vip
	$(GO_BUILD) -o bin/kube-vip ./cmd/kube-vip

# What the image is for, what it is called (with a tag, or the version is the tag), where its source is (a URL), and the file to
# write. All are for the command line: a variable of the environment that is called so means something else.
ARCHIVE   := bin/kube-vip-image.tar
PLATFORMS := linux/amd64 linux/arm64 linux/arm/v7 linux/ppc64le linux/s390x
IMAGE     := ghcr.io/kube-vip/kube-vip
SOURCE    :=

comma     := ,
platforms := $(subst $(comma), ,$(PLATFORMS))

.PHONY: image
image: bin/image $(platforms:%=bin/%/kube-vip) ## bin/kube-vip-image.tar, for every container engine; PLATFORMS=linux/amd64 for one platform (docs/image.md)
	bin/image -image "$(IMAGE)" -source "$(SOURCE)" -binaries bin -output $(ARCHIVE) $(platforms)

# The levels of the instruction sets are the default ones, whatever the environment says: part of what makes two builds the same.
.PHONY: $(platforms:%=bin/%/kube-vip)
$(platforms:%=bin/%/kube-vip): bin/%/kube-vip:
	GOOS=$(word 1,$(subst /, ,$*)) GOARCH=$(word 2,$(subst /, ,$*)) GOARM=$(patsubst v%,%,$(word 3,$(subst /, ,$*))) \
	  GOAMD64=v1 GOARM64=v8.0 GOPPC64=power8 $(GO_BUILD) -o $@ ./cmd/kube-vip

.PHONY: bin/image
bin/image:
	cd build/image && GOOS= GOARCH= CGO_ENABLED=0 go build -trimpath -buildvcs=false -o $(CURDIR)/$@ .

# The image's CA certificates alone, for the Dockerfile.
.PHONY: bin/ca-certificates.crt
bin/ca-certificates.crt: bin/image
	bin/image -certificates $@

.PHONY: parts
parts: $(addprefix $(PARTS)/,etcd kube-apiserver kubeadm kube-proxy) ## etcd and the parts of Kubernetes for the lab; minutes when built for the first time

control_plane := kubeadm kubelet etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy
newest        := $(addprefix $(PARTS)/,$(control_plane) kubectl)
older         := $(addprefix $(PARTS_V136)/,$(control_plane)) $(addprefix $(PARTS_V135)/,$(control_plane))
node          := $(addprefix $(PARTS_NODE)/,containerd containerd-shim-runc-v2 ctr pause $(addprefix cni/,bridge host-local loopback portmap))

.PHONY: kubeadm-parts kubeadm-parts-all
kubeadm-parts: $(newest) $(node) ## what machines of kubeadm's need: all of Kubernetes, containerd, CNI plugins
kubeadm-parts-all: kubeadm-parts $(older) ## the same, and two older minor versions of Kubernetes

$(PARTS)/%:      MODULE := test/parts
$(PARTS_V136)/%: MODULE := test/kubeadm/parts/v1.36
$(PARTS_V135)/%: MODULE := test/kubeadm/parts/v1.35
$(PARTS_NODE)/%: MODULE := test/kubeadm/parts/node

PACKAGE                   = k8s.io/kubernetes/cmd/$(@F)
%/etcd:           PACKAGE = go.etcd.io/etcd/server/v3
$(PARTS_NODE)/%:  PACKAGE = github.com/containerd/containerd/v2/cmd/$(@F)
$(PARTS_NODE)/cni/%: PACKAGE = github.com/containernetworking/plugins/plugins/.../$(@F)

# What the tags leave out: gRPC's traces, as Kubernetes' own builds do, and what nobody asks of this containerd.
TAGS := grpcnotrace,no_devmapper,no_zfs,no_tracing
%/containerd-shim-runc-v2: TAGS := $(TAGS),no_grpc

$(PARTS_NODE)/pause: MODULE  := .
$(PARTS_NODE)/pause: PACKAGE := ./test/kubeadm/pause

# Kubernetes and containerd do not know their version when they are built from modules; what has no such variables ignores it.
$(sort $(newest) $(older) $(node)):
	@cd $(MODULE); \
	version=$$(go list -f '{{.Module.Version}}' $(PACKAGE)); IFS=. read -r major minor _ <<<"$${version#v}"; \
	echo "building $(@F) $$version (cached in $(@D)); the first one of a version takes minutes"; \
	mkdir -p $(@D); v=k8s.io/component-base/version; \
	CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -o $@.new.$$$$ \
	  -ldflags "-s -w -X $$v.gitVersion=$$version -X $$v.gitMajor=$$major -X $$v.gitMinor=$$minor \
	    -X github.com/containerd/containerd/v2/version.Version=$$version" $(PACKAGE); \
	mv $@.new.$$$$ $@

.PHONY: tools
tools: ## the Debian packages that the tests call: installed as root, without starting what they bring; else named
	@missing=(); for t in $(TOOLS); do \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v "$${t%%:*}" >/dev/null || missing+=("$${t#*:}"); done; \
	if [ $${#missing[@]} -eq 0 ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing $${missing[*]}"; apt-get update -qq; \
	  policy=/usr/sbin/policy-rc.d; \
	  if [ ! -e $$policy ]; then trap 'rm -f /usr/sbin/policy-rc.d' EXIT; printf '#!/bin/sh\nexit 101\n' >$$policy; chmod +x $$policy; fi; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; \
	  if command -v systemctl >/dev/null; then for s in "$${missing[@]}"; do systemctl --quiet disable "$${s%2}.service" 2>/dev/null || :; done; fi; \
	else \
	  echo "the tests need packages that are not installed; as root: apt-get install $${missing[*]}" >&2; exit 1; \
	fi

.PHONY: lint
lint: ## gofmt, go vet, staticcheck with all its checks
	@files=$$(gofmt -l build cmd pkg test); if [ -n "$$files" ]; then echo "gofmt these files: $$files" >&2; exit 1; fi
	go vet ./...
	cd test/tools && go build -o $(CURDIR)/bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	bin/staticcheck -checks all ./...
	cd build/image && go vet ./... && $(CURDIR)/bin/staticcheck -checks all ./...

.PHONY: test
test: build parts tools ## every test; the lab's packages run one after another, for they measure time
	@rc=0; \
	go test -count=1 -timeout 70m $$(go list ./... | grep -v '/test/') || rc=1; \
	go test -count=1 -timeout 70m -p 1 $$(go list ./test/... | grep -v '/test/kubeadm') || rc=1; \
	(cd build/image && go test -count=1 ./...) || rc=1; \
	exit $$rc

.PHONY: test-short
test-short: ## what needs neither privilege nor a control plane
	go test -count=1 -short $$(go list ./... | grep -v '/test/') ./test/house
	cd build/image && go test -count=1 -short ./...

# Our image as kubeadm's machines import it: with the name that bin/kube-vip writes into manifests.
.PHONY: test-kubeadm-image
test-kubeadm-image: build
	image=$$(bin/kube-vip manifest pod --address 10.0.0.10 --arp 2>/dev/null | sed -n 's/^ *image: //p'); \
	$(MAKE) image ARCHIVE="$$KUBE_VIP_IMAGE" PLATFORMS=linux/$$(go env GOARCH) IMAGE="$$image"

.PHONY: test-kubeadm test-kubeadm-short
test-kubeadm: kubeadm-parts-all test-kubeadm-image tools ## real clusters of kubeadm's, on three versions of Kubernetes
	go test -count=1 -timeout 45m ./test/kubeadm/...
test-kubeadm-short: kubeadm-parts test-kubeadm-image tools ## the same in short, on the newest Kubernetes alone
	go test -count=1 -short -timeout 20m ./test/kubeadm/...

.PHONY: bench-kubeadm
bench-kubeadm: export KUBE_VIP_BENCHMARKS := $(CURDIR)/docs/benchmarks.md
bench-kubeadm: kubeadm-parts-all test-kubeadm-image tools ## test-kubeadm, with its figures written to docs/benchmarks.md
	go test -count=1 -timeout 45m -v ./test/kubeadm

.PHONY: demo
demo: build parts ## three nodes, one VIP, four ways to lose its holder; DEMOFLAGS=--help says what else
	@go build -o bin/demo ./test/demo
	@exec bin/demo $(DEMOFLAGS)

.PHONY: bench
bench: TOOLS += curl:curl
bench: build parts tools ## our gaps beside keepalived's, written to docs/benchmarks.md; BENCHFLAGS=-quick for a trial
	@go build -o bin/bench ./test/bench
	@exec bin/bench $(BENCHFLAGS)

.PHONY: bench-services
bench-services: build parts ## thousands of Services, written to docs/benchmarks.md; BENCHFLAGS=-quick for a trial, -help says what else
	@go build -o bin/bench-services ./test/bench/services
	@exec bin/bench-services $(BENCHFLAGS)

.PHONY: bench-bgp
bench-bgp: build parts tools ## BGP with FRR and BIRD, written to docs/benchmarks.md; BENCHFLAGS=-quick for a trial, -help says what else
	@go build -o bin/bench-bgp ./test/bench/bgp
	@exec bin/bench-bgp $(BENCHFLAGS)

.PHONY: clean
clean: ## removes bin/; the parts stay in the cache
	rm -rf bin

# `make demo` shows the program at work, `make test` runs every test. Both fetch and build what they need.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

# The real Kubernetes of the lab, built once per version from the modules that test/parts names.
PARTS_HASH := $(shell cat test/parts/go.mod test/parts/go.sum | sha256sum | cut -c1-16)
PARTS      := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kube-vip/parts/$(PARTS_HASH)
KUBERNETES  = $(shell cd test/parts && go list -m -f '{{.Version}}' k8s.io/kubernetes)

# Commands that the tests call, and the Debian package that brings each.
TOOLS := ip:iproute2 nft:nftables keepalived:keepalived tcpdump:tcpdump arping:iputils-arping ndisc6:ndisc6 \
         vtysh:frr bird:bird2

export KUBE_VIP_LAB_PARTS ?= $(PARTS)
export KUBE_VIP_BINARY    ?= $(CURDIR)/bin/kube-vip

# grpcnotrace: gobgp brings gRPC along, whose traces have the linker keep every method of every type, 20 MB of them.
GO_BUILD := CGO_ENABLED=0 go build -buildvcs=auto -trimpath -tags grpcnotrace -ldflags "-s -w"

.PHONY: build
build: ## the program: one static binary, bin/kube-vip
	$(GO_BUILD) -o bin/kube-vip ./cmd/kube-vip

# What the image is for, what it is called (with a tag, or the version is the tag), and where its source is (a URL). All are
# for the command line: a variable of the environment that is called so means something else.
PLATFORMS := linux/amd64 linux/arm64 linux/arm/v7 linux/ppc64le linux/s390x
IMAGE     := ghcr.io/kube-vip/kube-vip
SOURCE    :=

comma     := ,
platforms := $(subst $(comma), ,$(PLATFORMS))

.PHONY: image
image: bin/image $(platforms:%=bin/%/kube-vip) ## bin/kube-vip-image.tar, for every container engine; PLATFORMS=linux/amd64 for one platform (docs/image.md)
	bin/image -image "$(IMAGE)" -source "$(SOURCE)" -binaries bin -output bin/kube-vip-image.tar $(platforms)

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

$(PARTS)/etcd:
	@echo "building etcd (cached in $(PARTS))"
	mkdir -p $(PARTS)
	cd test/parts && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o $@.new.$$$$ go.etcd.io/etcd/server/v3 && mv $@.new.$$$$ $@

$(PARTS)/kube-apiserver $(PARTS)/kubeadm $(PARTS)/kube-proxy:
	@echo "building $(@F) $(KUBERNETES) (cached in $(PARTS)); the first time takes about five minutes on two cores"
	mkdir -p $(PARTS)
	cd test/parts && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES) \
	  -X k8s.io/component-base/version.gitMajor=$(word 1,$(subst ., ,$(KUBERNETES:v%=%))) \
	  -X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(KUBERNETES:v%=%)))" \
	  -o $@.new.$$$$ k8s.io/kubernetes/cmd/$(@F) && mv $@.new.$$$$ $@

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
	go test -count=1 -timeout 70m -p 1 ./test/... || rc=1; \
	(cd build/image && go test -count=1 ./...) || rc=1; \
	exit $$rc

.PHONY: test-short
test-short: ## what needs neither privilege nor a control plane
	go test -count=1 -short $$(go list ./... | grep -v '/test/') ./test/house
	cd build/image && go test -count=1 -short ./...

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

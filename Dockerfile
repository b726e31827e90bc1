# For those who build with Docker, BuildKit or Podman: the binary and the certificates of `make image`, built in the same
# way. Where there is no such tool, `make image` does without (docs/image.md).
#
#   docker build -t kube-vip .
#   docker buildx build --platform linux/amd64,linux/arm64,linux/arm/v7,linux/ppc64le,linux/s390x -t kube-vip .
#
# It needs a clone and not an unpacked archive, for the version comes from .git. The binary is the same bit for bit where
# Go is the same: --build-arg GO=1.26.8, say.
ARG GO=1.26
FROM --platform=$BUILDPLATFORM docker.io/library/golang:${GO} AS build
WORKDIR /src
COPY . .
ARG TARGETPLATFORM
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    make "bin/${TARGETPLATFORM}/kube-vip" bin/ca-certificates.crt "PLATFORMS=${TARGETPLATFORM}" && \
    install -D -m 0755 "bin/${TARGETPLATFORM}/kube-vip" /image/kube-vip && \
    install -D -m 0644 bin/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt

FROM scratch
COPY --from=build /image/ /
ENTRYPOINT ["/kube-vip"]

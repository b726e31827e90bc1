// Command kube-vip holds virtual IP addresses on the nodes of a Kubernetes cluster, and writes the manifests that
// run it there.
package main

import (
	"context"
	"os"
)

func main() {
	ctx := context.Background()
	code := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	os.Exit(code)
}

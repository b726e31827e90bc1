// Pause is what containers in clusters of tests run. It waits until it is told to end, which is all that holds a pod's
// namespaces; with -v it ends at once, which is all that kubeadm asks of it before an upgrade; with web it answers HTTP
// requests on port 8080 with the name of its pod.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, os.Interrupt, syscall.SIGTERM)
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "-v":
			return
		case "web":
			go serve()
		}
	}
	<-end
}

func serve() {
	err := http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		name, err := os.Hostname()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprint(w, name)
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

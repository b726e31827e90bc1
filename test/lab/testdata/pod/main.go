// Command pod stands for kube-vip in the tests of the pod runner: it says what it finds, and obeys.
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	status, _ := os.ReadFile("/proc/self/status")
	found := map[string]string{}
	for line := range strings.Lines(string(status)) {
		if k, v, _ := strings.Cut(line, ":"); strings.HasPrefix(k, "Cap") || k == "NoNewPrivs" || k == "Uid" {
			found[k] = strings.TrimSpace(v)
		}
	}
	for _, path := range strings.Fields(os.Getenv("READ")) {
		content, err := os.ReadFile(path)
		if err != nil {
			content = []byte("error: " + err.Error())
		}
		found["read "+path] = string(content)
	}
	for _, path := range strings.Fields(os.Getenv("WRITE")) {
		found["write "+path] = "ok"
		if err := os.WriteFile(path, []byte("written"), 0o644); err != nil {
			found["write "+path] = err.Error()
		}
	}
	names, _ := os.ReadDir("/sys/class/net")
	for _, n := range names {
		found["links"] += n.Name() + " "
	}
	for _, e := range os.Environ() {
		k, v, _ := strings.Cut(e, "=")
		found["env "+k] = v
	}
	found["args"] = strings.Join(os.Args, " ")
	line, err := json.Marshal(found)
	if err != nil {
		panic(err)
	}
	fmt.Printf("found %s\n", line)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if listen := os.Getenv("LISTEN"); listen != "" {
		sick := false
		http.HandleFunc("/sicken", func(http.ResponseWriter, *http.Request) { sick = true })
		http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
			if sick {
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		http.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprint(w, "# HELP go_goroutines n\ngo_goroutines 7\nx{a=\"b c\"} 1.5\n")
		})
		go func() { fmt.Println(http.ListenAndServe(listen, nil)) }()
	}
	if os.Getenv("EXIT") != "" {
		os.Exit(3)
	}
	<-stop
	fmt.Println("bye")
}

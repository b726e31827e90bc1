package kube

import "time"

// timing is every duration of this package in one place; tests shorten some of them.
type timing struct {
	dial      time.Duration // TCP connection to an address
	resolve   time.Duration // the same to a name, its look-up included
	handshake time.Duration // TLS

	// When an attempt was silent for this long, the next server is asked as well:
	connectPatience time.Duration // there is no connection yet
	patience        time.Duration // there is one, and no response headers
	watchPatience   time.Duration // the same for a watch
	probePatience   time.Duration // either of them, on a server that failed last time
	// With nobody left to ask, those that did not hang are asked again at intervals of coolMin, until a request
	// is this old. Its context may end it before.
	giveUp time.Duration

	stat    time.Duration // between two looks at the credentials' files
	coolMin time.Duration // a server that failed is not asked first for this long,
	coolMax time.Duration // doubling with each failure up to this
	refused time.Duration // after a 401 or 403 and with a substitute, before the same is tried again

	pingAfter   time.Duration // silence on an HTTP/2 connection before a ping
	pingTimeout time.Duration // and what the answer may take
}

// standardTiming is for machines that share a network. An API server answers in milliseconds, a slow etcd lets
// it take a second; what is asked of a second server then does not cancel the first, so a cluster in which
// everything is slow still works. The holder's renew deadline is 3 s by default: there is time for two servers
// that hang and one that answers.
func standardTiming() timing {
	return timing{
		dial:      500 * time.Millisecond,
		resolve:   2 * time.Second,
		handshake: 5 * time.Second,

		connectPatience: 500 * time.Millisecond,
		patience:        time.Second,
		watchPatience:   5 * time.Second,
		probePatience:   250 * time.Millisecond,
		giveUp:          10 * time.Second,

		stat:    time.Second,
		coolMin: time.Second,
		coolMax: 10 * time.Second,
		refused: 10 * time.Second,

		pingAfter:   2 * time.Second,
		pingTimeout: 2 * time.Second,
	}
}

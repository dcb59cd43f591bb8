// Command pause holds a pod's namespaces open: it waits for a signal to stop and reaps the orphans that land on it.
//
// `pause reach HOST:PORT` instead tries for a minute to connect to an address, and exits 0 when it did: run in a pod,
// it proves name resolution, the service network and the way to the server behind it.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "reach" {
		reach(os.Args[2], time.Minute)
		return
	}
	hold()
}

func hold() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		// One SIGCHLD may stand for several children, so reap until none is left.
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

func reach(address string, limit time.Duration) {
	deadline := time.Now().Add(limit)
	for {
		connection, err := net.DialTimeout("tcp", address, 2*time.Second)
		if err == nil {
			connection.Close()
			fmt.Println("reached", address, "at", connection.RemoteAddr())
			return
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// Copied into gRPC's ring-hash package by record_grpc_ring.py, because newRing is not exported.
package ringhash

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"google.golang.org/grpc/internal/grpclog"
	igrpclog "google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/resolver"
)

type ringCase struct {
	Names    []string `json:"names"`
	Weights  []uint32 `json:"weights"`
	RingSize uint64   `json:"ring_size"`
	Points   []string `json:"points"` // "<16 hex digits of the hash> <position of the name>"
}

func TestDumpRings(t *testing.T) {
	var cases []ringCase
	text, err := os.ReadFile(os.Getenv("RING_CASES"))
	if err != nil {
		t.Skip("no cases given")
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	for number := range cases {
		ringCase := &cases[number]
		endpoints := resolver.NewEndpointMap[*endpointState]()
		position := map[string]int{}
		for i, name := range ringCase.Names {
			position[name] = i
			endpoint := resolver.Endpoint{Addresses: []resolver.Address{{Addr: name}}}
			endpoints.Set(endpoint, &endpointState{hashKey: name, weight: ringCase.Weights[i]})
		}
		logger := grpclog.NewPrefixLogger(igrpclog.Component("dump"), "")
		for _, point := range newRing(endpoints, ringCase.RingSize, 1<<20, logger).items {
			ringCase.Points = append(ringCase.Points, fmt.Sprintf("%016x %d", point.hash, position[point.hashKey]))
		}
	}
	out, _ := json.Marshal(cases)
	if err := os.WriteFile(os.Getenv("RING_RESULT"), out, 0o644); err != nil {
		t.Fatal(err)
	}
}

// How the program's ggml lays out its tensors and numbers its operations: found by having it make tensors of known shapes. No
// version is asked for: forks and stripped builds tell none, or a wrong one.
#pragma once

#include "capture/graph/ggml_abi.h"

#include <string>

struct link_map;

namespace attnscope::attach {

struct Probed {
    capture::GgmlAbi abi;
    bool keeps_queries =
        false; // multiplies float32 queries with keys of f16 as they are; false: rounded to f16, as ggml does
    bool by_structure = false; // none of its functions can be called by name (structure_probe.h)
    std::string refusal;       // why it is not known, in a sentence; empty: it is
};

// Of the ggml that `caller` uses. A ggml_abort in it ends the probe, not the program.
Probed probe_ggml(link_map* caller);

// Puts what was found into the tables that capture/ and attention/ work with; once a process, before they are used.
void use_ggml(link_map* caller, const Probed& probed);
// Was it?
bool knows_ggml();
// ... by structure?
bool reads_structures();

// Called by our ggml_abort. Does not return while this thread probes.
void abort_of_probe(const char* text);

} // namespace attnscope::attach

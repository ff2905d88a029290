// Bodies of requests, as strangers send them: everything between the bytes and the engine's queue.
#include "server/dialects/attention_json.h"
#include "server/generation/stop_text.h"
#include "server/http/request_fields.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

using namespace attnscope;
using namespace attnscope::server;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const Result<Json> body = parse_body(text);
    if (!body) return 0;
    RequestFields f(*body);
    f.number("temperature", 0.7, 0, 100);
    f.integer("max_length", 180, 0, int64_t(1) << 31);
    f.flag("stream", false);
    const std::string prompt = f.text("prompt", "", 1 << 20);
    std::vector<std::string> stops = f.texts("stop", 64, 1024);
    const auto ids = f.token_ids("input_ids", 1000, 4096);
    if (f.status() && ids) {
        for (const int32_t id : *ids) {
            if (id < 0 || id >= 1000) std::abort();
        }
    }
    if (const Json* attention = f.find("attention")) {
        if (Result<AttentionFields> fields = read_attention(*attention)) {
            Geometry geometry;
            geometry.layers.resize(4);
            for (LayerInfo& layer : geometry.layers) layer.n_head = 4, layer.n_head_kv = 2, layer.head_dim = 32;
            (void)check_request(fields->request, geometry);
        }
    }
    // The prompt, cut into pieces as tokens would be, behind the stops.
    for (const bool shown : {true, false}) {
        StopText stop(stops, shown);
        std::string all;
        for (size_t at = 0, n = 1; at < prompt.size() && !stop.stopped(); at += n, n = n % 5 + 1)
            all += stop.add(prompt.substr(at, n));
        if (!stop.stopped()) all += stop.finish();
        if (all != stop.shown()) std::abort();
        if (!shown) {
            for (const std::string& s : stops) {
                if (all.find(s) != std::string::npos) std::abort();
            }
        }
    }
    (void)json_text(*body);
    return 0;
}

#include "attention/fingerprint.h"
#include "capture/proof/judge.h"

#include <attnscope/rows.h>
#include <attnscope/verify.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace attnscope {

namespace {

// A witness to be computed again, with what that takes of its frame.
struct Proof {
    size_t verdict = 0; // in VerifyReport::frames
    Witness witness;
    std::vector<uint8_t> q; // the layer's, all heads
    Ranges visible;
    int32_t position = 0;
    bool batched = false;
};

// Rows computed twice by the same code differ only where the columns came in another order (cells, not positions).
constexpr double fingerprint_tolerance = 1e-5;

Result<void> prove_layer(Recording& recording, int64_t sequence, int32_t layer, std::vector<Proof>& proofs,
                         const std::vector<int32_t>& positions, VerifyReport& report) {
    const LayerInfo& info = recording.info().geometry.layers[size_t(layer)];
    int64_t end = 0;
    for (const Proof& p : proofs) {
        if (!p.visible.empty()) end = std::max(end, p.visible.back().end);
    }
    Result<std::vector<uint8_t>> keys = recording.keys(info.k_layer, 0, end, sequence);
    if (!keys) return keys.error();
    std::vector<float> row;
    for (const Proof& p : proofs) {
        const int64_t n = p.visible.empty() ? 0 : p.visible.back().end;
        row.assign(size_t(n), 0.0f);
        const KeyBlock block{keys->data(), 0, n, info.k_bytes()};
        RowsRequest r;
        r.layer = &info;
        r.q = p.q.data();
        r.keys = {&block, 1};
        r.visible = p.visible;
        r.n_columns = n;
        r.position = p.position;
        r.batched = p.batched;
        r.positions = std::span(positions).first(size_t(n));
        r.head_begin = p.witness.head;
        r.head_end = p.witness.head + 1;
        FrameVerdict& verdict = report.frames[p.verdict];
        verdict.proven_again = true;
        ++report.n_proven_again;
        if (!attention_rows(r, row)) {
            verdict.verdict |= verdict_fingerprint;
            continue;
        }
        const double again = attention::row_fingerprint(row);
        const double error =
            std::fabs(again - p.witness.fingerprint) / std::max(std::fabs(p.witness.fingerprint), 1e-30);
        verdict.fingerprint_error = std::max(verdict.fingerprint_error, error);
        if (!(error <= fingerprint_tolerance)) verdict.verdict |= verdict_fingerprint;
        report.worst_fingerprint = std::max(report.worst_fingerprint, error);
    }
    return {};
}

} // namespace

Result<VerifyReport> verify_recording(Recording& recording, const VerifyOptions& options) {
    VerifyReport report;
    const RecordingInfo& info = recording.info();
    const Geometry& geometry = info.geometry;
    const auto progress = [&](const char* step, double fraction) {
        if (options.progress) options.progress(step, fraction);
    };
    report.complete = info.complete;
    report.pairs = geometry.n_rows();
    for (const LayerInfo& layer : geometry.layers) {
        if (!layer.captured()) report.absent.push_back("layer " + std::to_string(layer.layer) + ": " + layer.absent);
    }
    if (options.file_check) {
        const Result<void> checked = recording.check([&](double f) { progress("checksums", f); });
        if (!checked) report.damage = checked.error().message;
    }

    std::set<std::pair<int32_t, int32_t>> pairs;
    const std::vector<Sequence> sequences = recording.sequences();
    int64_t n_frames = 0;
    for (const Sequence& s : sequences) n_frames += s.n_own();
    report.n_frames = n_frames;
    const int64_t every = options.proofs < 0 || options.proofs >= n_frames
                              ? 1
                              : (n_frames + options.proofs - 1) / std::max<int64_t>(options.proofs, 1);
    for (const Sequence& s : sequences) {
        std::map<int32_t, std::vector<Proof>> by_layer;
        std::vector<int32_t> positions;
        if (const Result<std::vector<Frame>> shared = recording.frames(0, s.n_shared, s.id)) {
            for (const Frame& frame : *shared) positions.push_back(frame.position);
        } else {
            if (report.damage.empty()) report.damage = shared.error().message;
            positions.resize(size_t(s.n_shared));
        }
        capture::Judge judge(geometry); // the frame before the first one is nobody's
        for (int64_t i = s.n_shared; i < s.n_frames; ++i) {
            FrameVerdict verdict;
            verdict.sequence = s.id;
            verdict.index = i;
            Result<Frame> read = recording.frame({i, s.id}, true, true);
            if (!read) {
                if (report.damage.empty()) report.damage = read.error().message;
                verdict.verdict = verdict_checksum;
                positions.push_back(static_cast<int32_t>(i));
                report.frames.push_back(verdict);
                continue;
            }
            Frame& frame = *read;
            positions.push_back(frame.position);
            const uint32_t recorded = frame.verdict;
            judge.judge(frame);
            verdict.verdict = recorded | frame.verdict;
            const auto number = static_cast<int64_t>(report.frames.size());
            for (const Witness& w : frame.witnesses) {
                ++report.n_witnesses;
                pairs.insert({w.layer, w.head});
                const double ratio = static_cast<double>(w.error) / static_cast<double>(w.tolerance);
                if (ratio >= report.worst_ratio) report.worst_ratio = ratio;
                if (verdict.worst_tolerance == 0 ||
                    ratio > static_cast<double>(verdict.worst_error / verdict.worst_tolerance)) {
                    verdict.worst_error = w.error;
                    verdict.worst_tolerance = w.tolerance;
                }
                if (number % every != 0 || frame.q.empty() || (frame.verdict & verdict_witness_failed)) continue;
                const LayerInfo& layer = geometry.layers[size_t(w.layer)];
                const auto at = frame.q.begin() + static_cast<std::ptrdiff_t>(geometry.q_offset(w.layer));
                by_layer[w.layer].push_back({size_t(number),
                                             w,
                                             {at, at + static_cast<std::ptrdiff_t>(layer.q_bytes())},
                                             frame.visible[size_t(layer.mask_group)],
                                             frame.position,
                                             frame.batched});
            }
            report.frames.push_back(verdict);
            if (number % 64 == 0) progress("frames", static_cast<double>(number) / static_cast<double>(n_frames));
        }
        size_t done = 0;
        for (auto& [layer, proofs] : by_layer) {
            progress("proofs", static_cast<double>(done++) / static_cast<double>(by_layer.size()));
            const Result<void> proven = prove_layer(recording, s.id, layer, proofs, positions, report);
            if (!proven && report.damage.empty()) report.damage = proven.error().message;
        }
    }
    report.pairs_witnessed = static_cast<int64_t>(pairs.size());
    report.n_ok = std::count_if(report.frames.begin(), report.frames.end(),
                                [](const FrameVerdict& f) { return f.verdict == verdict_ok; });
    report.good = report.damage.empty() && report.n_ok == report.n_frames && report.n_frames > 0;
    return report;
}

} // namespace attnscope

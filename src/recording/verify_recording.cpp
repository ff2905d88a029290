#include "attention/fingerprint.h"
#include "capture/proof/judge.h"
#include "recording/missing_rows.h"

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
    std::vector<uint8_t> q; // of the witness's head alone
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
    std::vector<uint8_t> q(info.q_bytes()); // of all heads; rows of the proven one are asked for
    for (const Proof& p : proofs) {
        std::copy(p.q.begin(), p.q.end(), q.begin() + p.witness.head * static_cast<std::ptrdiff_t>(p.q.size()));
        const int64_t n = p.visible.empty() ? 0 : p.visible.back().end;
        row.assign(size_t(n), 0.0f);
        const KeyBlock block{keys->data(), 0, n, info.k_bytes()};
        RowsRequest r;
        r.layer = &info;
        r.q = q.data();
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

class Verification {
public:
    Verification(Recording& recording, const VerifyOptions& options)
        : recording_(recording), options_(options), geometry_(recording.info().geometry) {}

    VerifyReport run();

private:
    // A step takes from where the last one ended to `end` of everything.
    void begin_step(const char* step, double end) {
        step_ = step;
        begin_ = end_;
        end_ = end;
    }
    void progress(double of_step) const {
        if (options_.progress) options_.progress(step_, begin_ + of_step * (end_ - begin_));
    }
    // The first damage stays.
    void damaged(const Error& error) {
        if (report_.damage.empty()) report_.damage = error.message;
    }
    void check_file();
    void check_sequence(const Sequence& sequence);
    void check_frame(const Sequence& sequence, int64_t index, capture::Judge& judge);
    void check_witness(const Witness& witness, const Frame& frame, FrameVerdict& verdict);
    void prove(int64_t sequence);

    Recording& recording_;
    const VerifyOptions& options_;
    const Geometry& geometry_;
    VerifyReport report_;
    const char* step_ = "";
    double begin_ = 0, end_ = 0;
    int64_t every_ = 1; // one frame in so many has its proofs computed again
    std::set<std::pair<int32_t, int32_t>> pairs_;
    // of the sequence in hand
    std::map<int32_t, std::vector<Proof>> proofs_; // by layer
    std::vector<int32_t> positions_;
};

void Verification::check_file() {
    begin_step("checksums", 0.2);
    const Result<void> checked = recording_.check([&](double f) { progress(f); });
    if (!checked) damaged(checked.error());
}

// What a witness says by itself; and what it takes to compute its row again, where it is this frame's turn.
void Verification::check_witness(const Witness& w, const Frame& frame, FrameVerdict& verdict) {
    ++report_.n_witnesses;
    pairs_.insert({w.layer, w.head});
    const double ratio = static_cast<double>(w.error) / static_cast<double>(w.tolerance);
    if (ratio >= report_.worst_ratio) report_.worst_ratio = ratio;
    if (verdict.worst_tolerance == 0 || ratio > static_cast<double>(verdict.worst_error / verdict.worst_tolerance)) {
        verdict.worst_error = w.error;
        verdict.worst_tolerance = w.tolerance;
    }
    const size_t number = report_.frames.size();
    if (static_cast<int64_t>(number) % every_ != 0 || frame.q.empty() || (frame.verdict & verdict_witness_failed))
        return;
    const LayerInfo& layer = geometry_.layers[size_t(w.layer)];
    const size_t head_bytes = layer.q_bytes() / size_t(layer.n_head);
    const auto at =
        frame.q.begin() + static_cast<std::ptrdiff_t>(geometry_.q_offset(w.layer) + size_t(w.head) * head_bytes);
    proofs_[w.layer].push_back({number,
                                w,
                                {at, at + static_cast<std::ptrdiff_t>(head_bytes)},
                                frame.visible[size_t(layer.mask_group)],
                                frame.position,
                                frame.batched});
}

void Verification::check_frame(const Sequence& sequence, int64_t index, capture::Judge& judge) {
    FrameVerdict verdict;
    verdict.sequence = sequence.id;
    verdict.index = index;
    Result<Frame> read = recording_.frame({index, sequence.id}, true, true);
    if (read) {
        positions_.push_back(read->position);
        const uint32_t recorded = read->verdict;
        judge.judge(*read);
        verdict.verdict = recorded | read->verdict;
        for (const Witness& w : read->witnesses) check_witness(w, *read, verdict);
    } else {
        damaged(read.error());
        positions_.push_back(static_cast<int32_t>(index));
        verdict.verdict = verdict_checksum;
    }
    report_.frames.push_back(verdict);
}

void Verification::prove(int64_t sequence) {
    size_t done = 0;
    for (auto& [layer, proofs] : proofs_) {
        progress(static_cast<double>(done++) / static_cast<double>(proofs_.size()));
        const Result<void> proven = prove_layer(recording_, sequence, layer, proofs, positions_, report_);
        if (!proven) damaged(proven.error());
    }
}

void Verification::check_sequence(const Sequence& s) {
    proofs_.clear();
    positions_.clear();
    if (const Result<std::vector<Frame>> shared = recording_.frames(0, s.n_shared, s.id)) {
        for (const Frame& frame : *shared) positions_.push_back(frame.position);
    } else {
        damaged(shared.error());
        positions_.resize(size_t(s.n_shared));
    }
    capture::Judge judge(geometry_); // the frame before the first one is nobody's
    const auto n_before = static_cast<int64_t>(report_.frames.size());
    const double begin = end_, last = begin + (1 - begin) * double(s.n_own()) /
                                                  double(std::max<int64_t>(report_.n_frames - n_before, 1));
    begin_step("frames", (begin + last) / 2);
    for (int64_t i = s.n_shared; i < s.n_frames; ++i) {
        if (report_.frames.size() % 64 == 0) progress(double(i - s.n_shared) / double(s.n_own()));
        check_frame(s, i, judge);
    }
    begin_step("proofs", last);
    prove(s.id);
}

VerifyReport Verification::run() {
    report_.complete = recording_.info().complete;
    report_.pairs = geometry_.n_rows();
    report_.absent = recording::layers_not_captured(geometry_);
    if (options_.file_check) check_file();
    const std::vector<Sequence> sequences = recording_.sequences();
    for (const Sequence& s : sequences) report_.n_frames += s.n_own();
    if (options_.proofs >= 0 && options_.proofs < report_.n_frames) {
        const int64_t proofs = std::max<int64_t>(options_.proofs, 1);
        every_ = (report_.n_frames + proofs - 1) / proofs;
    }
    for (const Sequence& s : sequences) check_sequence(s);
    report_.pairs_witnessed = static_cast<int64_t>(pairs_.size());
    report_.n_ok = std::count_if(report_.frames.begin(), report_.frames.end(),
                                 [](const FrameVerdict& f) { return f.verdict == verdict_ok; });
    report_.good = report_.damage.empty() && report_.n_ok == report_.n_frames && report_.n_frames > 0;
    return std::move(report_);
}

} // namespace

Result<VerifyReport> verify_recording(Recording& recording, const VerifyOptions& options) {
    return Verification(recording, options).run();
}

} // namespace attnscope

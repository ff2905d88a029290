// One sequence of a recording, or somebody else's capture, as a page looks at it: opened once, its tensors and pictures kept while they
// are of use. From any thread.
#pragma once

#include "server/view/job.h"
#include "server/view/passes.h"
#include "server/view/sequence_list.h"
#include "view/recorded/courtesy.h"
#include "view/recorded/head_metrics.h"
#include "view/recorded/keys.h"
#include "view/recorded/picture.h"
#include "view/recorded/questions.h"
#include "view/recorded/tensors.h"

#include <attnscope/recording.h>

#include <atomic>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace attnscope::server {

class Viewed {
public:
    enum class Kind { recording, capture };
    // Sequence 0 of a recording. not_found, not_ours, damaged, ... where neither a recording nor a capture can be opened.
    static Result<std::shared_ptr<Viewed>> open(const std::string& path);
    // Another sequence of the same recording. not_found, in words, where there is no such sequence.
    Result<std::shared_ptr<Viewed>> open_sequence(int64_t sequence);

    Kind kind() const { return kind_; }
    const std::string& path() const { return path_; }
    const std::string& name() const { return name_; } // without folders
    int64_t sequence() const { return sequence_; }
    // Which there are in its recording; not of a capture.
    SequenceList& sequences() { return *list_; }
    // What is held in memory of its queries and keys, or will be once they are all read.
    size_t bytes() const { return bytes_; }

    // Reads what whoever opens it will ask for first, before anybody does.
    void begin();
    // Looks again at a file that grows. Only of a recording, as all below.
    Result<RecordingInfo> info();
    Result<Json> tokens();
    // The mean or maximum over the selected rows of one token: what `attnscope show` prints.
    Result<std::vector<float>> row(int64_t token, const view::Selection& selection);
    // Passes rest while somebody waits for a row or a tile.
    view::Courtesy& courtesy() { return *courtesy_; }
    // Waits until they are in memory.
    Result<std::shared_ptr<const view::RecordedTensors>> tensors();
    // Nothing while it is computed; `progress` says how far it is. What is quick is waited for.
    std::optional<Result<std::shared_ptr<const view::Picture>>> picture(const view::Selection& selection,
                                                                        double& progress);
    // Once it is a value without an error, questions about columns of the selection are quick.
    std::optional<Result<void>> denominators(const view::Selection& selection, double& progress);
    // Nothing while it is computed; `progress` says how far it is.
    std::optional<Result<Json>> heads(double& progress);
    // Witnesses and verdicts, or what `attnscope diagnose` finds.
    Result<Json> health();

private:
    Viewed(std::string path, Kind kind, int64_t sequence, std::shared_ptr<SequenceList> list);
    // The file anew, for a thread of its own.
    Result<std::unique_ptr<Recording>> reader() const { return Recording::open_sequence(path_, sequence_); }
    void hold(std::unique_ptr<Recording> recording); // once, before anybody asks
    // Keys in memory; null where they would take too much of it.
    Result<std::shared_ptr<view::RecordedKeys>> keys();
    void read_ahead();
    Result<std::vector<float>> row_of_file(int64_t token, const view::Selection& selection);

    std::string path_, name_;
    Kind kind_;
    const int64_t sequence_;
    const std::shared_ptr<SequenceList> list_; // of the recording: one for all its sequences
    std::atomic<size_t> bytes_{0};
    std::mutex recording_mutex_;
    std::unique_ptr<Recording> recording_; // one thread at a time
    int64_t n_frames_ = 0;
    Json tokens_; // of n_frames_ frames; null: not read yet

    std::mutex keys_mutex_;
    std::shared_ptr<view::RecordedKeys> keys_;
    std::unique_ptr<Job> reading_ahead_;

    std::mutex tensors_mutex_;                                      // held while they are read: others wait for them
    std::shared_ptr<const view::RecordedTensors> tensors_, before_; // before it grew: what was computed then stays true
    std::atomic<bool> tensors_ready_{false};

    std::mutex pictures_mutex_;
    std::list<std::pair<view::Selection, std::shared_ptr<const view::Picture>>> pictures_; // newest first
    Passes passes_;
    const std::shared_ptr<view::Courtesy> courtesy_ = std::make_shared<view::Courtesy>();
    std::mutex heads_mutex_;
    std::unique_ptr<Job> heads_;
    std::mutex health_mutex_;
    Json health_;                    // null: not looked at yet
    std::unique_ptr<Job> beginning_; // the last member: it uses the others
};

// The answers as JSON; also what an exported file holds.
Json info_json(const std::string& name, const RecordingInfo& info, int64_t n_prompt);
Json heads_json(const view::HeadMetrics& metrics);
Json detail_json(const view::HeadDetail& detail);
Json scores_json(const PositionScores& scores);
Json difference_json(const view::Difference& difference);
// `n_recorded`: frames of all sequences of its file.
Result<Json> recording_health(Recording& recording, int64_t n_recorded);
Result<Json> capture_health(const std::string& path);
// Ids, positions, kinds, verdicts, and the bytes of the texts in base64. Frames that cannot be read are there, with their damage.
Result<Json> tokens_json(Recording& recording);

// Metrics beside a recording, so that they are computed once: PATH.heads.json, of its other sequences PATH.sequence-N.heads.json. Only
// for recordings that are closed; a file that does not fit the recording is not_found. `info`: of the sequence.
Result<Json> cached_heads(const std::string& path, int64_t sequence, const RecordingInfo& info);
void cache_heads(const std::string& path, int64_t sequence, const RecordingInfo& info, const Json& heads);

// Keys up to here are read while the page still draws the text.
constexpr size_t most_bytes_ahead = size_t(1) << 30;
// Most of a recording's queries and keys that is held in memory.
constexpr size_t most_tensor_bytes = size_t(6) << 30;

} // namespace attnscope::server

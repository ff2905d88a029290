#include "server/view/sources.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include <fcntl.h>
#include <sys/stat.h>

namespace attnscope::server {

namespace {

constexpr size_t most_opened = 8;

} // namespace

Result<void> ViewSources::add(const std::string& path) {
    Result<std::shared_ptr<Viewed>> viewed = Viewed::open(path);
    if (!viewed) return viewed.error();
    const std::lock_guard lock(mutex_);
    named_.push_back(*viewed);
    return {};
}

void ViewSources::begin() {
    const std::lock_guard lock(mutex_);
    if (named_.empty()) return;
    Glances::List glances(glances_);
    const auto first = std::find_if(named_.begin(), named_.end(), [&](const std::shared_ptr<Viewed>& viewed) {
        return viewed->kind() == Viewed::Kind::capture || !glances.of(viewed->path()).warm_up;
    });
    (first == named_.end() ? named_.front() : *first)->begin();
}

std::vector<ViewSources::Named> ViewSources::list() {
    std::vector<std::string> paths; // of recordings
    std::vector<Named> out = named(paths);
    Glances::List glances(glances_); // without the mutex: files are read
    for (size_t i = 0; i < out.size(); ++i) {
        if (!out[i].capture && !out[i].gone) out[i].glance = glances.of(paths[i]);
    }
    return out;
}

std::vector<ViewSources::Named> ViewSources::named(std::vector<std::string>& paths) {
    std::vector<Named> out;
    const std::lock_guard lock(mutex_);
    std::error_code ec;
    for (size_t i = 0; i < named_.size(); ++i) {
        out.push_back({std::to_string(i), named_[i]->name(), named_[i]->kind() == Viewed::Kind::capture, false,
                       !std::filesystem::exists(named_[i]->path(), ec)});
        paths.push_back(named_[i]->path());
    }
    if (folder_.empty()) return out;
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_, ec)) {
        const std::string name = entry.path().filename().string();
        if (name.ends_with(".attn") && name.front() != '.' && entry.is_regular_file(ec)) names.push_back(name);
    }
    number_new(names);
    std::sort(names.begin(), names.end(),
              [this](const std::string& a, const std::string& b) { return came_.at(a) > came_.at(b); });
    for (const std::string& name : names) {
        out.push_back({name, name, false, of_server_, false});
        paths.push_back((std::filesystem::path(folder_) / name).string());
    }
    return out;
}

// In the order in which they were made, as far as the file system says it: what is written first goes into a log beside the file.
void ViewSources::number_new(const std::vector<std::string>& names) {
    std::vector<std::pair<std::pair<int64_t, int64_t>, std::string>> fresh;
    for (const std::string& name : names) {
        if (came_.count(name) > 0) continue;
        struct statx info {};
        const std::string path = (std::filesystem::path(folder_) / name).string();
        if (statx(AT_FDCWD, path.c_str(), 0, STATX_BTIME | STATX_MTIME, &info) != 0) info = {};
        const auto& made = (info.stx_mask & STATX_BTIME) != 0 ? info.stx_btime : info.stx_mtime;
        fresh.push_back({{made.tv_sec, made.tv_nsec}, name});
    }
    std::sort(fresh.begin(), fresh.end());
    for (const auto& [time, name] : fresh) came_.emplace(name, came_.size());
}

Result<std::shared_ptr<Viewed>> ViewSources::find(const Which& which) {
    Opened closed;
    const std::lock_guard lock(mutex_);
    return find(which, closed);
}

Result<std::shared_ptr<Viewed>> ViewSources::find(const Which& which, Opened& closed) {
    const std::string& id = which.id;
    const Error none{ErrorKind::not_found, "there is no such recording"};
    size_t number = 0;
    const auto [end, ec] = std::from_chars(id.data(), id.data() + id.size(), number);
    const bool named = ec == std::errc() && end == id.data() + id.size();
    if (named && number >= named_.size()) return none;
    if (named && which.sequence == 0) return named_[number];
    // A name, never a path: nothing outside the folder of recordings is opened.
    const bool plain = std::all_of(id.begin(), id.end(),
                                   [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '.' || c == '_'; });
    if (!named && (folder_.empty() || !plain || id.empty() || id.front() == '.' || !id.ends_with(".attn"))) return none;
    for (auto it = opened_.begin(); it != opened_.end(); ++it) {
        if (it->first != which) continue;
        opened_.splice(opened_.begin(), opened_, it);
        return it->second;
    }
    return open(which, closed);
}

Result<std::shared_ptr<Viewed>> ViewSources::open(const Which& which, Opened& closed) {
    Result<std::shared_ptr<Viewed>> viewed = [&] {
        if (which.sequence == 0) return Viewed::open((std::filesystem::path(folder_) / which.id).string());
        Result<std::shared_ptr<Viewed>> first = find({which.id, 0}, closed);
        return first ? (*first)->open_sequence(which.sequence) : first;
    }();
    if (!viewed) return viewed;
    opened_.emplace_front(which, *viewed);
    close_old(closed);
    return viewed;
}

// Two are looked at side by side: they stay, whatever they take.
void ViewSources::close_old(Opened& closed) {
    const auto bytes = [this] {
        size_t sum = 0;
        for (const auto& [which, viewed] : opened_) sum += viewed->bytes();
        return sum;
    };
    while (opened_.size() > most_opened || (opened_.size() > 2 && bytes() > most_tensor_bytes))
        closed.splice(closed.end(), opened_, std::prev(opened_.end()));
}

std::optional<Result<Json>> ViewSources::compare(const Which& a, const Which& b, double& progress) {
    Result<std::shared_ptr<Viewed>> first = find(a), second = find(b);
    if (!first) return Result<Json>(first.error());
    if (!second) return Result<Json>(second.error());
    const std::lock_guard lock(mutex_);
    std::unique_ptr<Job>& job = comparisons_[{a, b}];
    if (!job) {
        if (comparisons_.size() > most_opened) {
            comparisons_.erase(comparisons_.begin()->first == std::pair(a, b) ? std::next(comparisons_.begin())
                                                                              : comparisons_.begin());
        }
        std::unique_ptr<Job>& own = comparisons_[{a, b}];
        own = std::make_unique<Job>([x = *first, y = *second](const view::Progress& said) -> Result<Json> {
            const auto of_x = x->tensors();
            if (!of_x) return of_x.error();
            const auto of_y = y->tensors();
            if (!of_y) return of_y.error();
            const Result<view::Difference> d = view::difference(**of_x, **of_y, said);
            if (!d) return d.error();
            return difference_json(*d);
        });
        progress = 0;
        return std::nullopt;
    }
    progress = job->progress();
    return job->result();
}

} // namespace attnscope::server

// Runs the main of a library, as Node.js and Python load theirs: attach_loader LIBRARY local|deepbind ARGS...
#include <cstdio>
#include <string>

#include <dlfcn.h>

int main(int argc, char** argv) {
    if (argc < 3) return 2;
    const int mode = std::string(argv[2]) == "deepbind" ? RTLD_DEEPBIND : 0;
    void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL | mode);
    const auto theirs = library ? reinterpret_cast<int (*)(int, char**)>(dlsym(library, "main")) : nullptr;
    if (!theirs) return std::fprintf(stderr, "%s\n", dlerror()), 2;
    return theirs(argc - 2, argv + 2);
}

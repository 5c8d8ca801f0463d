// A family of tiny random models in every mode, with its chorale.yaml.
#pragma once

#include <string>
#include <vector>

namespace chorale {

// Writes into an existing folder: a base, two full fine-tunes (`x`, `y`), two adapters (`a`, `b`)
// and two readers' adapters (`r`, `s`); and chorale.yaml with the models of TinyFamilyModels.
void WriteTinyFamily(const std::string& folder);

// In order: base, standard-x, standard-a, share-x, share-a, sun-x, sun-a, sun-int8, icarus-r,
// icarus-s.
std::vector<std::string> TinyFamilyModels();

}  // namespace chorale

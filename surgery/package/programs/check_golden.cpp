// Load deploy.prototxt and deploy.caffemodel with Caffe, run the golden inputs, compare with the golden outputs.
//
//   check_golden [FOLDER]     of the unpacked parcel; exit code 0 where every output agrees, 1 where one does not
#include <caffe/caffe.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <vector>

struct Vector {
  std::string file, blob;
  double tolerance;  // of ||computed - golden|| / ||golden||
};
struct Sample {
  std::vector<Vector> inputs, outputs;
};

// A raw file: the number of axes and the axes as uint32, then the values as float32, all little-endian.
static std::vector<float> Read(const std::string& path, const caffe::Blob<float>& blob) {
  std::ifstream file(path.c_str(), std::ios::binary);
  std::vector<unsigned> shape(1 + blob.num_axes());
  std::vector<float> values(blob.count());
  file.read(reinterpret_cast<char*>(shape.data()), 4 * shape.size());
  file.read(reinterpret_cast<char*>(values.data()), 4 * values.size());
  CHECK(file) << path << " is missing or too short for " << blob.shape_string();
  CHECK(shape[0] + 1 == shape.size() && std::equal(shape.begin() + 1, shape.end(), blob.shape().begin()))
      << path << " has another shape than " << blob.shape_string();
  return values;
}

static bool Agrees(const std::vector<float>& golden, const float* computed, const Vector& output) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < golden.size(); ++i) {
    error += (double(computed[i]) - golden[i]) * (double(computed[i]) - golden[i]);
    norm += double(golden[i]) * golden[i];
  }
  const bool agrees = std::sqrt(error) <= output.tolerance * std::sqrt(norm);
  std::printf("%-5s %s: %.1e from the golden vector, at most %g\n", agrees ? "ok" : "WRONG", output.blob.c_str(),
              std::sqrt(error / (norm > 0 ? norm : 1)), output.tolerance);
  return agrees;
}

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  const std::string folder = std::string(argc > 1 ? argv[1] : ".") + "/";
  std::ifstream index((folder + "golden/index.txt").c_str());
  std::map<int, Sample> samples;
  Vector vector;
  std::string kind;
  for (int number; index >> kind >> number >> vector.file >> vector.tolerance && index.get();) {
    std::getline(index, vector.blob);  // The rest of the line: a name may hold spaces.
    (kind == "input" ? samples[number].inputs : samples[number].outputs).push_back(vector);
  }
  CHECK(!samples.empty()) << "no golden vectors in " << folder << "golden";
  bool all_agree = true;
  for (const auto& sample : samples) {
    caffe::Net<float> net(folder + "deploy.prototxt", caffe::TEST);  // Anew each time: recurrent layers remember.
    net.CopyTrainedLayersFrom(folder + "deploy.caffemodel");
    for (const Vector& input : sample.second.inputs) {
      caffe::Blob<float>& blob = *net.blob_by_name(input.blob);
      const std::vector<float> values = Read(folder + input.file, blob);
      std::copy(values.begin(), values.end(), blob.mutable_cpu_data());
    }
    net.Forward();
    for (const Vector& output : sample.second.outputs) {
      const caffe::Blob<float>& blob = *net.blob_by_name(output.blob);
      all_agree &= Agrees(Read(folder + output.file, blob), blob.cpu_data(), output);
    }
  }
  return all_agree ? 0 : 1;
}

import CoreGraphics
import CoreML
import CoreVideo
import Foundation
import ImageIO

// Pixels of a side of what the network takes, and of the photo's shorter side before its middle is cut out.
let imageSize = 224
let resizedSide = 235
// Xcode compiles the package: model.mlpackage in the project is model.mlmodelc in the app.
let modelName = "model"

struct Prediction {
    let name: String
    let probability: Double
}

enum ClassifierError: Error {
    case noModel(String)
    case noPhoto(URL)
    case noMemory
    case noProbabilities
}

/// Says what a photo shows. Make one, use it off the main thread.
final class Classifier {
    private let model: MLModel

    init(named name: String = modelName, in bundle: Bundle = .main) throws {
        guard let url = bundle.url(forResource: name, withExtension: "mlmodelc") else {
            throw ClassifierError.noModel(name)
        }
        model = try MLModel(contentsOf: url)
    }

    /// The most probable classes of an upright photo, the first first.
    func classify(_ photo: CGImage, count: Int = 5) throws -> [Prediction] {
        let image = MLFeatureValue(pixelBuffer: try preprocess(photo))
        let output = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: ["image": image]))
        guard let probabilities = output.featureValue(for: "classLabel_probs")?.dictionaryValue else {
            throw ClassifierError.noProbabilities
        }
        let predictions = probabilities.map { Prediction(name: "\($0.key)", probability: $0.value.doubleValue) }
        return Array(predictions.sorted { $0.probability > $1.probability }.prefix(count))
    }
}

/// A photo, upright whichever way the camera was held.
func decode(_ url: URL) throws -> CGImage {
    let options: [CFString: Any] = [
        kCGImageSourceCreateThumbnailFromImageAlways: true,  // of full size, since no other is asked for
        kCGImageSourceCreateThumbnailWithTransform: true,
    ]
    guard let source = CGImageSourceCreateWithURL(url as CFURL, nil),
        let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary)
    else { throw ClassifierError.noPhoto(url) }
    return image
}

/// The photo's middle; the package itself scales and normalizes the pixels.
///
/// It is resized as the training images were, by Pillow: bicubic, over all pixels that one of the result covers. Vision's
/// own cropping and scaling is another, which costs accuracy.
func preprocess(_ photo: CGImage) throws -> CVPixelBuffer {
    let (width, height) = (photo.width, photo.height)
    let pixels = try rgb(photo)
    let columns = samples(width, min(width, height))
    let rows = samples(height, min(width, height))
    var narrow = [UInt8](repeating: 0, count: 4 * height * imageSize)
    for y in rows[0].first..<rows[imageSize - 1].end {
        for x in 0..<imageSize {
            for channel in 0..<3 {
                narrow[4 * (y * imageSize + x) + channel] = columns[x].mean { pixels[4 * (y * width + $0) + channel] }
            }
        }
    }
    return try pixelBuffer { x, y, channel in
        rows[y].mean { narrow[4 * ($0 * imageSize + x) + channel] }
    }
}

/// Four bytes a pixel: R, G, B and one that says nothing. Colours stay the numbers of the file, as Pillow reads them.
private func rgb(_ photo: CGImage) throws -> [UInt8] {
    let own = photo.colorSpace.flatMap { $0.model == .rgb ? $0 : nil }
    var pixels = [UInt8](repeating: 0, count: 4 * photo.width * photo.height)
    let drawn = pixels.withUnsafeMutableBytes { bytes -> Bool in
        guard
            let context = CGContext(
                data: bytes.baseAddress, width: photo.width, height: photo.height, bitsPerComponent: 8,
                bytesPerRow: 4 * photo.width, space: own ?? CGColorSpaceCreateDeviceRGB(),
                bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
        else { return false }
        context.draw(photo, in: CGRect(x: 0, y: 0, width: photo.width, height: photo.height))
        return true
    }
    guard drawn else { throw ClassifierError.noMemory }
    return pixels
}

/// An image for Core ML, of the byte that each (x, y, channel) has; channels are R, G and B.
private func pixelBuffer(_ byte: (Int, Int, Int) -> UInt8) throws -> CVPixelBuffer {
    var made: CVPixelBuffer?
    let surface = [kCVPixelBufferIOSurfacePropertiesKey: [String: Any]()] as CFDictionary
    CVPixelBufferCreate(nil, imageSize, imageSize, kCVPixelFormatType_32BGRA, surface, &made)
    guard let buffer = made else { throw ClassifierError.noMemory }
    CVPixelBufferLockBaseAddress(buffer, [])
    defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
    guard let base = CVPixelBufferGetBaseAddress(buffer) else { throw ClassifierError.noMemory }
    for y in 0..<imageSize {
        let line = base.advanced(by: y * CVPixelBufferGetBytesPerRow(buffer)).assumingMemoryBound(to: UInt8.self)
        for x in 0..<imageSize {
            for channel in 0..<3 { line[4 * x + 2 - channel] = byte(x, y, channel) }
            line[4 * x + 3] = 255
        }
    }
    return buffer
}

/// The pixels of a line, from `first` on, that one of the result is made of, and how much each counts.
private struct Sample {
    let first: Int
    let weights: [Double]
    var end: Int { first + weights.count }

    func mean(_ pixel: (Int) -> UInt8) -> UInt8 {
        var total = 0.5
        for (i, weight) in weights.enumerated() { total += weight * Double(pixel(first + i)) }
        return UInt8(min(max(total, 0), 255))
    }
}

/// Of a side so long, the middle `imageSize` once the shorter side is resized.
private func samples(_ length: Int, _ short: Int) -> [Sample] {
    let resized = length * resizedSide / short
    let begin = Int((Double(resized - imageSize) / 2).rounded(.toNearestOrEven))
    let scale = Double(length) / Double(resized)
    let width = max(scale, 1)
    return (0..<imageSize).map { i in
        let center = (Double(begin + i) + 0.5) * scale
        let first = max(0, Int(center - 2 * width + 0.5))
        let end = min(length, Int(center + 2 * width + 0.5))
        let weights = (first..<end).map { bicubic((Double($0) - center + 0.5) / width) }
        let total = weights.reduce(0, +)
        return Sample(first: first, weights: weights.map { $0 / total })
    }
}

/// Keys' cubic convolution with a = -1/2.
private func bicubic(_ distance: Double) -> Double {
    let x = abs(distance)
    if x < 1 { return (1.5 * x - 2.5) * x * x + 1 }
    if x < 2 { return ((-0.5 * x + 2.5) * x - 4) * x + 2 }
    return 0
}

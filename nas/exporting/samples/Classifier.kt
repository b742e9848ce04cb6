package classifier

import android.content.ContentResolver
import android.content.Context
import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.net.Uri
import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round

// Pixels of a side of what the network takes, and of the photo's shorter side before its middle is cut out.
const val IMAGE_SIZE = 224
const val RESIZED = 235

// Of R, G and B, as shares of white.
val MEAN = floatArrayOf(0.485f, 0.456f, 0.406f)
val STD = floatArrayOf(0.229f, 0.224f, 0.225f)

val SHAPE = longArrayOf(1, 3, IMAGE_SIZE.toLong(), IMAGE_SIZE.toLong())

data class Prediction(val name: String, val probability: Float)

/** Says what a photo shows. The app's assets hold the model and classes.txt. Make one, use it off the main thread. */
abstract class Classifier(context: Context) : AutoCloseable {
    private val names = context.assets.open("classes.txt").bufferedReader().useLines { it.toList() }

    /** What the network answers to an image as [preprocess] makes it, a number for each class. */
    protected abstract fun logits(image: FloatArray): FloatArray

    /** The most probable classes of an upright photo, the first first. */
    fun classify(photo: Bitmap, count: Int = 5): List<Prediction> {
        val logits = logits(preprocess(photo))
        var largest = logits[0]
        for (logit in logits) largest = max(largest, logit)
        val exponentials = logits.map { exp(it - largest) }
        val total = exponentials.sum()
        return names.indices.map { Prediction(names[it], exponentials[it] / total) }
            .sortedByDescending { it.probability }
            .take(count)
    }
}

/** A photo, upright whichever way the camera was held, with pixels that can be read. */
fun decode(resolver: ContentResolver, photo: Uri): Bitmap =
    ImageDecoder.decodeBitmap(ImageDecoder.createSource(resolver, photo)) { decoder, _, _ ->
        decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
    }

/**
 * The planes R, G and B, normalized, of the photo's middle.
 *
 * It is resized as the training images were, by Pillow: bicubic, over all pixels that one of the result covers. Android's
 * own scaling looks at four pixels only, which costs accuracy. Colours are sRGB's, whatever the photo's own are.
 */
fun preprocess(photo: Bitmap): FloatArray {
    val short = min(photo.width, photo.height)
    val columns = samples(photo.width, short)
    val rows = samples(photo.height, short)
    val narrow = Array(3) { IntArray(photo.height * IMAGE_SIZE) }
    val line = IntArray(photo.width)
    for (y in rows.first().first until rows.last().end) {
        photo.getPixels(line, 0, photo.width, 0, y, photo.width, 1)
        for (channel in 0..2) {
            val shift = 16 - 8 * channel
            for (x in 0 until IMAGE_SIZE) {
                narrow[channel][y * IMAGE_SIZE + x] = columns[x].mean { (line[it] shr shift) and 0xFF }
            }
        }
    }
    val image = FloatArray(3 * IMAGE_SIZE * IMAGE_SIZE)
    for (i in image.indices) {
        val x = i % IMAGE_SIZE
        val y = i / IMAGE_SIZE % IMAGE_SIZE
        val channel = i / (IMAGE_SIZE * IMAGE_SIZE)
        val value = rows[y].mean { narrow[channel][it * IMAGE_SIZE + x] }
        image[i] = (value / 255f - MEAN[channel]) / STD[channel]
    }
    return image
}

/** The pixels of a line, from [first] on, that one of the result is made of, and how much each counts. */
private class Sample(val first: Int, val weights: DoubleArray) {
    val end = first + weights.size

    inline fun mean(pixel: (Int) -> Int): Int {
        var total = 0.5
        for (i in weights.indices) total += weights[i] * pixel(first + i)
        return total.toInt().coerceIn(0, 255)
    }
}

/** Of a side so long, the middle [IMAGE_SIZE] once the shorter side is resized. */
private fun samples(length: Int, short: Int): List<Sample> {
    val resized = (length.toLong() * RESIZED / short).toInt()
    val begin = round((resized - IMAGE_SIZE) / 2.0).toInt()
    val scale = length.toDouble() / resized
    val width = max(scale, 1.0)
    return List(IMAGE_SIZE) { i ->
        val center = (begin + i + 0.5) * scale
        val first = max(0, (center - 2 * width + 0.5).toInt())
        val end = min(length, (center + 2 * width + 0.5).toInt())
        val weights = DoubleArray(end - first) { bicubic((first + it - center + 0.5) / width) }
        val total = weights.sum()
        Sample(first, DoubleArray(weights.size) { weights[it] / total })
    }
}

/** Keys' cubic convolution with a = -1/2. */
private fun bicubic(distance: Double): Double {
    val x = abs(distance)
    return when {
        x < 1 -> (1.5 * x - 2.5) * x * x + 1
        x < 2 -> ((-0.5 * x + 2.5) * x - 4) * x + 2
        else -> 0.0
    }
}

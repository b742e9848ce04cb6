// Preprocesses an image: width, height and ARGB pixels as 32-bit integers in, 32-bit floats out, the high byte first.

import android.graphics.Bitmap
import classifier.preprocess
import java.io.File
import java.nio.ByteBuffer

fun main(arguments: Array<String>) {
    val (source, target) = arguments.map { File(it) }
    val numbers = ByteBuffer.wrap(source.readBytes())
    val (width, height) = List(2) { numbers.int }
    val image = preprocess(Bitmap(IntArray(width * height) { numbers.int }, width, height))
    val bytes = ByteBuffer.allocate(4 * image.size)
    image.forEach { bytes.putFloat(it) }
    target.writeBytes(bytes.array())
}
